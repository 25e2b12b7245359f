"""The URL of a broker on the command line."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from noria.cli.errors import broker_error
from noria.errors import BusError, InvalidBrokerURL

if TYPE_CHECKING:
    _StrType = click.ParamType[str]
else:
    _StrType = click.ParamType


class EventsURL(_StrType):
    """The URL of a broker that other processes reach, or "" for none."""

    name = "url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the URL. Raises click.BadParameter, and CommandError for a missing package."""
        if not value:
            return ""
        from noria.bus.bus import Bus

        try:
            bus = Bus(value)
        except InvalidBrokerURL as error:
            text = str(error)
            self.fail(text if text.endswith("?") else f"{text}.", param, ctx)
        except BusError as error:
            raise broker_error(error) from None
        if not bus.broker.durable:
            self.fail(
                f"{value} does not leave this process, which has no handlers; use a broker, as "
                "nats://127.0.0.1:4222 or redis://127.0.0.1:6379.",
                param,
                ctx,
            )
        return str(value)


@contextlib.contextmanager
def quiet_connection() -> Iterator[None]:
    """Keep the adapter from logging that it cannot connect, which the exception says, too."""
    log = logging.getLogger("noria.bus")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def shown_url(url: str) -> str:
    """The URL without its password."""
    from noria.bus.brokers.table import parse_url

    return parse_url(url).shown
