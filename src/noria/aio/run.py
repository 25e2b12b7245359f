"""Ways to run a program on noria's loop: `run`, `new_event_loop`, the policy, `install`."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from noria.aio.loop import EventLoop

T = TypeVar("T")


def new_event_loop(model: str = "auto") -> EventLoop:
    """Create an asyncio event loop on a model: select, poll, epoll, epoll-edge, io_uring or auto.

    Raises Unsupported for a model that cannot drive asyncio (the message lists those that can),
    UnknownModel, and ModelUnavailable if the system does not support the model.
    """
    return EventLoop(model)


def run(main: Coroutine[Any, Any, T], *, debug: bool | None = None, model: str = "auto") -> T:
    """Run the coroutine on a new loop, close the loop and return the result: asyncio.run on noria.

    Raises what the coroutine raises, and RuntimeError if a loop is running in this thread.
    """
    if asyncio._get_running_loop() is not None:
        raise RuntimeError("noria.run() cannot be called from a running event loop")
    with asyncio.Runner(debug=debug, loop_factory=lambda: new_event_loop(model)) as runner:
        return runner.run(main)


NO_POLICIES = (
    "asyncio has no event loop policies on this Python: use noria.run(main()), "
    "asyncio.run(main(), loop_factory=noria.new_event_loop) or "
    "asyncio.Runner(loop_factory=noria.new_event_loop)"
)


def default_policy() -> Any:
    """Return asyncio's default policy class, or `object` on a Python without policies."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from Python 3.14 on
        return getattr(asyncio, "DefaultEventLoopPolicy", object)


if TYPE_CHECKING:
    _PolicyBase = asyncio.DefaultEventLoopPolicy
else:
    _PolicyBase = default_policy()


class EventLoopPolicy(_PolicyBase):
    """An event loop policy: asyncio.set_event_loop_policy(noria.EventLoopPolicy()).

    Policies are deprecated from Python 3.14 on and will be removed in 3.16: use noria.run or a loop
    factory. On a Python without policies, the constructor raises RuntimeError.
    """

    def __init__(self, model: str = "auto"):
        if _PolicyBase is object:
            raise RuntimeError(NO_POLICIES)
        super().__init__()
        self._model = model

    def new_event_loop(self) -> EventLoop:
        """Create a loop on the policy's model."""
        return new_event_loop(self._model)


def install(model: str = "auto", *, streams: bool = False) -> None:
    """Have asyncio.run and asyncio.new_event_loop create noria's loop.

    With `streams`, asyncio.open_connection and asyncio.start_server also create noria's compiled
    readers and writers. Call it before importing modules that do ``from asyncio import
    StreamReader``.

    Raises RuntimeError on a Python without event loop policies.
    """
    policy = EventLoopPolicy(model)
    if streams:
        from noria.aio import streams as compiled

        compiled.install()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        asyncio.set_event_loop_policy(policy)
