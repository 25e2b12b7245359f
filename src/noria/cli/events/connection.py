"""A bus for one command: it connects, runs a coroutine, and closes."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import click

from noria.cli.broker_url import EventsURL, quiet_connection

T = TypeVar("T")

url_argument = click.argument("url", metavar="URL", type=EventsURL())
json_option = click.option("--json", "json", is_flag=True, help="Print JSON, one object a line.")


def run(url: str, function: Callable[..., Awaitable[T]]) -> T:
    """Return what ``function(bus)`` returns, a coroutine function.

    Raises BrokerUnavailable, and other BusErrors.
    """
    from noria.aio.run import run as run_loop
    from noria.bus.bus import Bus

    # While tail follows, the adapter logs that the connection is lost, and that it is back.
    logging.basicConfig(format="noria: %(message)s", level=logging.WARNING)

    async def main() -> T:
        bus = Bus(url)
        try:
            with quiet_connection():
                await bus.connect()
            return await function(bus)
        finally:
            await bus.close()

    return run_loop(main())
