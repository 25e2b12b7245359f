"""Ways to get a program onto noria's loop."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from noria.aio.loop import EventLoop

T = TypeVar("T")


def new_event_loop(model: str = "auto") -> EventLoop:
    """An asyncio event loop on this model: select, poll, epoll, epoll-edge, io_uring or auto.

    Raises Unsupported for a model that cannot drive asyncio (it says which can), UnknownModel,
    and ModelUnavailable where the machine refuses the model.
    """
    return EventLoop(model)


def run(main: Coroutine[Any, Any, T], *, debug: bool | None = None, model: str = "auto") -> T:
    """Runs the coroutine on a new loop and closes it: asyncio.run on noria.

    Raises what the coroutine raises, and RuntimeError in a thread where a loop runs already.
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


def _default_policy() -> Any:
    """asyncio's default policy class, or `object` on a Python without policies."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from Python 3.14 on
        return getattr(asyncio, "DefaultEventLoopPolicy", object)


if TYPE_CHECKING:
    _Base = asyncio.DefaultEventLoopPolicy
else:
    _Base = _default_policy()


class EventLoopPolicy(_Base):
    """For programs that set a policy: asyncio.set_event_loop_policy(noria.EventLoopPolicy()).

    Policies are deprecated from Python 3.14 on, and to be removed in 3.16: use noria.run, or a loop
    factory. Without policies, making one raises RuntimeError.
    """

    def __init__(self, model: str = "auto"):
        if _Base is object:
            raise RuntimeError(NO_POLICIES)
        super().__init__()
        self._model = model

    def new_event_loop(self) -> EventLoop:
        """A new loop on the policy's model."""
        return new_event_loop(self._model)


def install(model: str = "auto", *, streams: bool = False) -> None:
    """Make noria's the loop that asyncio.run and asyncio.new_event_loop make.

    With `streams`, asyncio.open_connection and asyncio.start_server make noria's compiled readers
    and writers too. Call it before modules that do ``from asyncio import StreamReader``.

    Raises RuntimeError on a Python without event loop policies.
    """
    policy = EventLoopPolicy(model)
    if streams:
        from noria.aio import streams as compiled

        compiled.install()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        asyncio.set_event_loop_policy(policy)
