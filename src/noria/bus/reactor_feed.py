"""The handlers of a Reactor, fed by a bus."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from noria.bus.event import Event
from noria.errors import BusError, InvalidData

if TYPE_CHECKING:
    from noria.reactor import Reactor


def reactor_handler(reactor: Reactor) -> Callable[[Event], Coroutine[Any, Any, None]]:
    """Return a bus handler that runs the reactor's handlers of an event in the reactor's thread.

    It ends when they have returned; it raises what the first of them raised, after all have run.
    """

    async def feed(event: Event) -> None:
        data = {} if event.data is None else event.data
        if not isinstance(data, dict):
            raise InvalidData(
                f"the data of {event.type} is {type(data).__name__}; a reactor's handlers take an "
                "object, whose members become their arguments"
            )
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def finish(error: BaseException | None) -> None:
            if not done.done():
                if error is None:
                    done.set_result(None)
                else:
                    done.set_exception(error)

        def dispatch() -> None:
            errors: list[Exception] = []
            for handler in reactor.handlers(event.type):
                try:
                    handler(**data)
                except Exception as error:
                    errors.append(error)
            if not loop.is_closed():
                loop.call_soon_threadsafe(finish, errors[0] if errors else None)

        if reactor.loop.closed:
            raise BusError("the reactor is closed")
        reactor.call_soon_threadsafe(dispatch)
        await done

    return feed
