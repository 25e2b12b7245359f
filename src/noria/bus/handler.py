"""A registered handler, and how one run of it is started."""

from __future__ import annotations

import asyncio
import inspect
import signal
import sys
import threading
import types
from collections.abc import Callable, Coroutine
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any, NoReturn

from noria.bus.arguments import Binder, binder, without_partial
from noria.bus.backoff import RETRY_BASE, RETRY_CAP
from noria.bus.contract import Subscription
from noria.bus.event import Event
from noria.bus.stats import HandlerStats
from noria.bus.threads import HandlerExit, HandlerThreads


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
        target = without_partial(self.handler)
        name = getattr(target, "__qualname__", None) or type(target).__qualname__
        return f"{getattr(target, '__module__', None) or '?'}.{name}"


# Called after each run of a handler, with its seconds and its exception or None.
OnHandled = Callable[[Registration, Event, float, BaseException | None], object]


def runner(
    handler: Callable[..., object], threads: HandlerThreads
) -> Callable[[Event], Coroutine[Any, Any, object]]:
    """Return a coroutine function that runs the handler for an event.

    A handler that is no coroutine function runs in one of `threads`; an awaitable that it returns
    is awaited in the loop.
    """
    bind = binder(handler)
    if not is_async(handler):
        return _named(_run_in_thread, handler, bind, threads)
    if bind is None:
        return _named(_run, handler)
    return _named(_run_bound, handler, bind)


def is_async(handler: Callable[..., object]) -> bool:
    """Whether calling the handler returns a coroutine."""
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(
        getattr(handler, "__call__", None)  # noqa: B004
    )


def check_handler(handler: Callable[..., object]) -> None:
    """Raise TypeError for what cannot be called, a generator function, and wrong parameters."""
    if not callable(handler):
        raise TypeError(f"a handler is a function or another callable, not {handler!r}")
    for each in (handler, getattr(handler, "__call__", None)):  # noqa: B004
        if inspect.isgeneratorfunction(each) or inspect.isasyncgenfunction(each):
            raise TypeError(
                f"{handler!r} is a generator function: calling it runs nothing; a handler has no "
                "yield"
            )
    binder(handler)


def _named(
    function: Callable[..., Coroutine[Any, Any, None]],
    handler: Callable[..., object],
    *more: object,
) -> Callable[[Event], Coroutine[Any, Any, object]]:
    """Return a copy of a coroutine function whose code has the handler's name, file and line.

    Sight and debuggers name a task by the code of its coroutine. The handler and `more` become the
    defaults of its parameters after the event.
    """
    code = _code_of(handler)
    named: types.CodeType = function.__code__
    if type(code) is types.CodeType:  # not of a built-in function or a mock
        named = named.replace(
            co_name=code.co_name,
            co_qualname=code.co_qualname,
            co_filename=code.co_filename,
            co_firstlineno=code.co_firstlineno,
            co_linetable=_first_line(len(named.co_code) // 2),
        )
    return types.FunctionType(named, function.__globals__, argdefs=(handler, *more))


def _code_of(handler: Callable[..., object]) -> Any:
    target = without_partial(handler)
    if not hasattr(target, "__code__"):
        target = getattr(target, "__call__", None)  # noqa: B004
    return getattr(target, "__code__", None)


def _first_line(instructions: int) -> bytes:
    """Return a line table in which all instructions belong to the first line of their code.

    Source: CPython, InternalDocs/code_objects.md: entries of kind 13, without columns, each for up
    to 8 instructions, with a difference of 0 lines.
    """
    whole, rest = divmod(instructions, 8)
    lengths = [8] * whole + [rest] * bool(rest)
    return b"".join(bytes((0x80 | 13 << 3 | length - 1, 0)) for length in lengths)


async def _run(event: Event, handler: Callable[..., Any]) -> None:
    try:
        result = await handler(event)
        if result is not None:
            await _finish(result)
    except (SystemExit, KeyboardInterrupt) as error:
        _contain(error)


async def _run_bound(event: Event, handler: Callable[..., Any], bind: Binder) -> None:
    try:
        result = await handler(*bind(event))
        if result is not None:
            await _finish(result)
    except (SystemExit, KeyboardInterrupt) as error:
        _contain(error)


async def _run_in_thread(
    event: Event, handler: Callable[..., Any], bind: Binder | None, threads: HandlerThreads
) -> None:
    arguments = (event,) if bind is None else bind(event)
    try:
        result = await threads.run(handler, *arguments)
        if result is not None:
            await _finish(result)
    except (SystemExit, KeyboardInterrupt) as error:
        _contain(error)


async def _finish(result: object) -> None:
    """Await what a handler returned, if that is possible: a lambda returns its coroutine."""
    if inspect.isawaitable(result):
        await result
    elif isinstance(result, types.GeneratorType | types.AsyncGeneratorType):
        raise TypeError("the handler returned a generator, which does not run by itself")


def _contain(error: SystemExit | KeyboardInterrupt) -> NoReturn:
    """Raise HandlerExit for it; itself if it may be a Ctrl-C."""
    if isinstance(error, KeyboardInterrupt) and _may_be_ctrl_c(error):
        raise error
    raise HandlerExit from error


def _may_be_ctrl_c(error: KeyboardInterrupt) -> bool:
    """Whether a signal handler may have raised it: Python's own, or that of asyncio.Runner.

    The latter cancels the main task at the first Ctrl-C, and raises KeyboardInterrupt at others.
    """
    if threading.current_thread() is not threading.main_thread():
        return False
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        return True
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return (
        traceback is not None and traceback.tb_frame.f_code.co_filename == asyncio.runners.__file__
    )


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
