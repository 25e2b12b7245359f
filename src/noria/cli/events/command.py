"""``noria events``: the group of its sub-commands."""

from __future__ import annotations

import click

from noria.cli.events.dead import dead
from noria.cli.events.emit import emit
from noria.cli.events.forget import forget
from noria.cli.events.lag import lag
from noria.cli.events.replay import replay
from noria.cli.events.tail import tail
from noria.cli.subcommand import OrderedGroup


@click.group(cls=OrderedGroup, short_help="Watch, emit and replay the events of a broker.")
def events() -> None:
    """Watch the events of a broker, emit events, see how far groups are behind, and replay what
    failed.

    URL is the broker's, as for noria.Bus: nats://127.0.0.1:4222 or redis://127.0.0.1:6379.

    \b
    Examples:
      noria events tail redis://127.0.0.1
      noria events emit redis://127.0.0.1 upload.finished name=a.txt size:=3
      noria events lag redis://127.0.0.1 --max 1000
      noria events dead redis://127.0.0.1 --group thumbnails
      noria events replay redis://127.0.0.1 --group thumbnails
    """


for command in (tail, emit, lag, dead, replay, forget):
    events.add_command(command)
