"""A registered handler, and how one run of it is started."""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
from collections.abc import Callable, Coroutine
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any

from noria.bus.arguments import Binder, binder
from noria.bus.backoff import RETRY_BASE, RETRY_CAP
from noria.bus.contract import Subscription
from noria.bus.event import Event
from noria.bus.stats import HandlerStats
from noria.bus.threads import HandlerThreads


@dataclass(slots=True)
class Registration:
    """What `Bus.on` registered.

    `retries`: runs after the first one. `backoff`: seconds, the longest delay before the first
    retry; it doubles with each, up to `max_backoff`. `own_concurrency`: whether the subscription's
    concurrency was chosen for this handler, and is not the default of the bus.
    """

    subscription: Subscription
    handler: Callable[..., object]
    retries: int
    backoff: float = RETRY_BASE
    max_backoff: float = RETRY_CAP
    own_concurrency: bool = False
    stats: HandlerStats = field(default_factory=HandlerStats)

    @property
    def type(self) -> str:
        return self.subscription.type

    @property
    def group(self) -> str | None:
        return self.subscription.group

    @property
    def name(self) -> str:
        """The handler's name: ``module.function``."""
        target: Any = self.handler
        while isinstance(target, functools.partial):
            target = target.func
        name = getattr(target, "__qualname__", None) or type(target).__qualname__
        return f"{getattr(target, '__module__', None) or '?'}.{name}"


# Called after each run of a handler, with its seconds and its exception or None.
OnHandled = Callable[[Registration, Event, float, BaseException | None], object]


def runner(
    handler: Callable[..., object], threads: HandlerThreads
) -> Callable[[Event], Coroutine[Any, Any, object]]:
    """Return a coroutine function that runs the handler for an event.

    A handler that is no coroutine function runs in one of `threads`. Raises TypeError for
    parameters that no event fits.
    """
    bind = binder(handler)
    if not is_async(handler):
        return functools.partial(_run_in_thread, threads, handler, bind)
    if bind is None:
        return handler  # type: ignore[return-value]
    return functools.partial(_run_bound, handler, bind)


def is_async(handler: Callable[..., object]) -> bool:
    """Whether calling the handler returns a coroutine."""
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(
        getattr(handler, "__call__", None)  # noqa: B004
    )


async def _run_bound(handler: Callable[..., Any], bind: Binder, event: Event) -> object:
    return await handler(*bind(event))


async def _run_in_thread(
    threads: HandlerThreads, handler: Callable[..., Any], bind: Binder | None, event: Event
) -> object:
    arguments = (event,) if bind is None else bind(event)
    return await threads.run(handler, *arguments)


if sys.version_info >= (3, 12):

    def start_task(
        coroutine: Coroutine[Any, Any, object], loop: asyncio.AbstractEventLoop, context: Context
    ) -> asyncio.Task[object]:
        """Start a task that runs at once, until it first waits: many handlers end there."""
        return asyncio.Task(coroutine, loop=loop, context=context, eager_start=True)

else:

    def start_task(
        coroutine: Coroutine[Any, Any, object], loop: asyncio.AbstractEventLoop, context: Context
    ) -> asyncio.Task[object]:
        """Start a task, which runs in the next turn of the loop."""
        return asyncio.Task(coroutine, loop=loop, context=context)
