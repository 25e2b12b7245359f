"""``noria events emit``: publish an event."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

import click

from noria.cli.events.connection import json_option, run, url_argument
from noria.cli.param_types import MAX_FINITE_SECONDS, Seconds

if TYPE_CHECKING:
    from noria.bus.bus import Bus


@click.command(short_help="Publish an event.")
@url_argument
@click.argument("type", metavar="TYPE")
@click.argument("members", metavar="[NAME=TEXT|NAME:=JSON]...", nargs=-1)
@click.option(
    "--data",
    metavar="JSON|@FILE|-",
    help="The data: JSON, or @FILE, or - for standard input. Not with NAME=TEXT.",
)
@click.option(
    "--content-type",
    metavar="TYPE",
    help="Media type of --data that is not JSON: it is sent as bytes.",
)
@click.option("--key", help="Events with the same key keep their order.")
@click.option(
    "--id", "id", help="The broker stores one event of this type and id within two minutes."
)
@click.option(
    "--delay", type=Seconds(), default=0.0, metavar="S", help="Handle it S seconds later."
)
@click.option("--source", metavar="URI", help="CloudEvents source. Default: //HOST/noria.")
@click.option("--subject", metavar="TEXT", help="CloudEvents subject.")
@click.option(
    "--timeout",
    type=Seconds(),
    default=10.0,
    show_default=True,
    metavar="S",
    help="Wait this long for the broker.",
)
@json_option
def emit(
    url: str,
    type: str,
    members: tuple[str, ...],
    data: str | None,
    content_type: str | None,
    key: str | None,
    id: str | None,
    delay: float,
    source: str | None,
    subject: str | None,
    timeout: float,
    json: bool,
) -> None:
    """Publish an event, and wait until the broker has it.

    NAME=TEXT is a member of the data with a text, NAME:=JSON one with a number, a list or other
    JSON. With --json, the event is printed as a CloudEvent.

    \b
    Examples:
      noria events emit redis://127.0.0.1 upload.finished name=a.txt size:=3
      noria events emit redis://127.0.0.1 user.renamed name=Ada --key user-7
      noria events emit redis://127.0.0.1 report.due --delay 3600 --id 2026-11
      noria events emit redis://127.0.0.1 order.placed --data @order.json
      noria events emit redis://127.0.0.1 a.b --data @a.png --content-type image/png
    """
    from noria.bus.event import Event, default_source
    from noria.errors import InvalidEvent

    if members and data is not None:
        raise click.UsageError("--data and NAME=TEXT cannot be combined.")
    if content_type is not None and data is None:
        raise click.UsageError("--content-type is for --data.")
    if timeout <= 0:
        raise click.UsageError("--timeout must be above 0.")
    if delay == math.inf:
        raise click.UsageError(f"--delay must be below {MAX_FINITE_SECONDS:g} seconds.")
    value = _members(members) if data is None else _data(data, content_type)
    try:
        event = Event(
            type,
            value,
            id=id,
            source=source or f"{default_source().rpartition('/')[0]}/noria",
            subject=subject,
            key=key,
            datacontenttype=content_type,
        )
    except InvalidEvent as error:
        raise click.UsageError(f"{error}.") from None

    async def publish(bus: Bus) -> None:
        await bus.publish(event, delay=delay, timeout=min(timeout, 1e6))

    run(url, publish)
    if json:
        click.echo(event.encode().decode())
    else:
        later = f", to be handled in {delay:g} s" if delay else ""
        click.echo(f"emitted {type}, id {event.id}{later}")


def _members(members: tuple[str, ...]) -> dict[str, Any] | None:
    """Return the data of NAME=TEXT and NAME:=JSON. Raises UsageError."""
    data: dict[str, Any] = {}
    for member in members:
        name, equals, text = member.partition("=")
        if not equals or not name.rstrip(":"):
            raise click.UsageError(f"{member!r} is not NAME=TEXT or NAME:=JSON.")
        if name.endswith(":"):
            name = name[:-1]
            data[name] = _json(text, f"{member!r}")
        else:
            data[name] = text
    return data or None


def _data(text: str, content_type: str | None) -> Any:
    """Return the data of --data: from JSON, or bytes of another type. Raises UsageError."""
    from noria.bus.event import is_json

    if text == "-":
        body = sys.stdin.buffer.read()
    elif text.startswith("@"):
        with open(text[1:], "rb") as file:
            body = file.read()
    else:
        body = text.encode()
    if content_type is not None and not is_json(content_type):
        return body
    try:
        return _json(body.decode(), "--data")
    except UnicodeDecodeError:
        raise click.UsageError(
            "--data is not JSON but bytes: name their type, as --content-type image/png."
        ) from None


def _json(text: str, what: str) -> Any:
    from noria.bus.json_codec import standard_decode

    try:
        return standard_decode(text.encode())
    except ValueError as error:
        raise click.UsageError(f"{what} is not JSON: {error}.") from None
