"""``noria events tail``: events as they are published."""

from __future__ import annotations

import asyncio
import datetime
import fnmatch
import json as jsonlib
import signal
import sys
from typing import TYPE_CHECKING, Any

import click

from noria.cli.connect.terminal_text import escape, escape_line
from noria.cli.events.connection import json_option, run, url_argument
from noria.cli.standard_output import ellipsis, output_width

if TYPE_CHECKING:
    from noria.bus.bus import Bus
    from noria.bus.event import Event

FETCH_LIMIT = 100


@click.command(short_help="Print events as they are published.")
@url_argument
@click.option(
    "--type",
    "types",
    metavar="TYPE",
    multiple=True,
    help="Only events of this type; * and ? are wildcards. May be repeated.",
)
@click.option("-n", "--count", type=click.IntRange(1), help="Exit after this many events.")
@click.option("-v", "--verbose", is_flag=True, help="Print all attributes of each event.")
@json_option
def tail(url: str, types: tuple[str, ...], count: int | None, verbose: bool, json: bool) -> None:
    """Print the events that are published from now on, until Ctrl-C.

    It takes nothing away from the groups, and leaves nothing in the broker. With --json, each line
    is a CloudEvent.

    \b
    Examples:
      noria events tail redis://127.0.0.1
      noria events tail redis://127.0.0.1 --type 'upload.*' -v
      noria events tail nats://127.0.0.1 --json | jq -r .data.name
    """
    printer = _Printer(types, count, verbose, json)
    run(url, lambda bus: _follow(bus, printer))


async def _follow(bus: Bus, printer: _Printer) -> None:
    """Print events until there are enough, or SIGTERM."""
    loop = asyncio.get_running_loop()
    following = asyncio.ensure_future(_print_events(bus, printer))
    is_terminated = False

    def terminate() -> None:
        nonlocal is_terminated
        is_terminated = True
        following.cancel()

    loop.add_signal_handler(signal.SIGTERM, terminate)
    try:
        await following
    except asyncio.CancelledError:
        if not is_terminated:  # Ctrl-C
            raise
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


async def _print_events(bus: Bus, printer: _Printer) -> None:
    """Print events until there are enough.

    It uses the broker directly: a handler's dispatcher would turn what it cannot decode into dead
    letters.
    """
    from noria.bus.backoff import reconnect_delay
    from noria.bus.contract import EVERY_TYPE, Subscription
    from noria.errors import BrokerUnavailable

    consumer = await bus.broker.subscribe(Subscription(EVERY_TYPE, None, FETCH_LIMIT))
    click.echo(f"noria: events of {bus.url.shown}, from now on", err=True)
    failures = 0
    try:
        while True:
            try:
                deliveries = await consumer.fetch(FETCH_LIMIT)
                await consumer.ack(deliveries)
            except BrokerUnavailable:
                failures += 1
                await asyncio.sleep(reconnect_delay(failures))
                continue
            failures = 0
            for delivery in deliveries:
                if printer.print(delivery.body):
                    return
            await asyncio.sleep(0)
    finally:
        await consumer.close()


class _Printer:
    """Prints the events that the options select."""

    def __init__(
        self, types: tuple[str, ...], count: int | None, verbose: bool, json: bool
    ) -> None:
        self.types = types
        self.left = count
        self.verbose = verbose
        self.json = json

    def print(self, body: bytes) -> bool:
        """Print an event, unless it is of another type; return whether it was the last one."""
        from noria.bus.event import decode
        from noria.errors import InvalidEvent

        try:
            event = decode(body)
        except InvalidEvent as error:
            click.echo(f"noria: {escape_line(str(error))}", err=True)
            return False
        if self.types and not any(fnmatch.fnmatchcase(event.type, each) for each in self.types):
            return False
        if self.json:
            # The JSON of another program may have several lines.
            click.echo(body.replace(b"\r", b" ").replace(b"\n", b" ").decode())
        else:
            click.echo(self._text(event))
        if self.left is not None:
            self.left -= 1
        return self.left == 0

    def _text(self, event: Event) -> str:
        type = click.style(escape_line(event.type), fg="cyan")
        line = f"{click.style(_clock(event), dim=True)}  {type}"
        plain = len(click.unstyle(line))
        if event.key is not None:
            key = escape_line(event.key)
            line += f"  key={key}"
            plain += len(key) + 6
        data = "" if event.data is None else f"  {data_text(event.data, event.datacontenttype)}"
        if self.verbose:
            attributes = {name: value for name, value in event.attributes.items() if value}
            shown = jsonlib.dumps(attributes, indent=2, ensure_ascii=False)[2:-2]
            return f"{line}{data}\n{click.style(escape(shown), dim=True)}"
        if sys.stdout.isatty() and plain + len(data) > output_width():
            data = data[: max(output_width() - plain - 3, 10)].rstrip() + ellipsis()
        return line + data


def data_text(data: Any, content_type: str | None) -> str:
    """Return the data of an event on one line, safe to show on a terminal."""
    if isinstance(data, bytes):
        return f"<{len(data):,} bytes of {escape_line(content_type or 'no type')}>"
    return escape_line(jsonlib.dumps(data, ensure_ascii=False, separators=(", ", ": ")))


def _clock(event: Event) -> str:
    """Return the event's time of day here."""
    from noria.errors import InvalidEvent

    try:
        time = event.time
    except InvalidEvent:
        time = None
    local = datetime.datetime.now() if time is None else time.astimezone()
    return local.strftime("%H:%M:%S.%f")[:-3]
