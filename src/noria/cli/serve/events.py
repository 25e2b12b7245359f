"""The option --events of `noria serve files`: a broker's URL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from noria.cli.errors import CommandError
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
            self.fail(f"{error}.", param, ctx)
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


def broker_error(error: BusError) -> CommandError:
    """The error for a broker that cannot be used: what is wrong, and what to do."""
    problem, _, hint = str(error).partition("; ")
    return CommandError(problem, hint) if hint else CommandError(problem)


def shown_url(url: str) -> str:
    """The URL without its password."""
    from noria.bus.brokers.table import parse_url

    return parse_url(url).shown
