"""What ``noria serve`` prints: where it listens, connections, and a summary; as text or JSON."""

import time
from typing import Any

from noria.cli.standard_output import print_json, print_line
from noria.cli.units import plural


class TextOutput:
    """Prints what the server does as text. *auto*: also why the model was chosen.

    *metrics* is the URL of the metrics, if they are served.
    """

    def __init__(self, auto: bool = False, metrics: str | None = None) -> None:
        self._auto = auto
        self._metrics = metrics

    def ready(self, info: Any) -> None:
        """Print the addresses and the model. *info* is a noria.ServerInfo."""
        reason = f" (auto: {info.reason})" if self._auto and info.reason else ""
        print_line(f"listening on {' and '.join(info.addresses)}, model {info.model}{reason}")
        if self._metrics is not None:
            print_line(f"metrics at {self._metrics}")
        print_line("press Ctrl-C to stop")

    def connection(self, event: str, peer: str, facts: dict[str, Any]) -> None:
        """Print a line for a connection that opened or closed.

        *facts* may have "seconds", how long it was open, and "error".
        """
        text = f"  after {_format_seconds(facts['seconds'])}" if "seconds" in facts else ""
        if facts.get("error"):
            text += f": {facts['error']}"
        print_line(f"{time.strftime('%H:%M:%S')}  {event:5}  {peer}{text}")

    def summary(self, summary: Any) -> None:
        """Print the totals. *summary* is a noria.Summary."""
        workers = f" by {plural(summary.workers, 'worker')}" if summary.workers > 1 else ""
        total = summary.busy + summary.waiting
        share = f" ({summary.busy / total:.1%} of the time)" if total > 0 else ""
        print_line(
            f"\nserved {plural(summary.connections, 'connection')}, "
            f"{plural(summary.messages, 'message')}{workers}\n"
            f"  received  {_format_size(summary.bytes_in)}\n"
            f"  sent      {_format_size(summary.bytes_out)}\n"
            f"  busy      {_format_seconds(summary.busy)}{share}\n"
            f"  waiting   {_format_seconds(summary.waiting)}"
        )


class JsonOutput(TextOutput):
    """Prints the same as JSON objects, one a line."""

    def ready(self, info: Any) -> None:
        """Print the addresses, the model, the reason for it, the process, the metrics' URL."""
        print_json(
            event="listening",
            listening=list(info.addresses),
            model=info.model,
            reason=info.reason,
            pid=info.pid,
            **({} if self._metrics is None else {"metrics": self._metrics}),
        )

    def connection(self, event: str, peer: str, facts: dict[str, Any]) -> None:
        """Print an object for a connection that opened or closed, with *facts* in it."""
        print_json(event=event, peer=peer, **facts)

    def summary(self, summary: Any) -> None:
        """Print the totals; times are in seconds."""
        names = ("connections", "messages", "bytes_in", "bytes_out", "busy", "waiting", "workers")
        print_json(event="summary", **{name: getattr(summary, name) for name in names})


def _format_size(count: float) -> str:
    if count < 1024:
        return f"{count:.0f} bytes" if count != 1 else "1 byte"
    size, units = count / 1024, ["KiB", "MiB", "GiB"]
    while size >= 1024 and len(units) > 1:
        size /= 1024
        del units[0]
    return f"{size:,.1f} {units[0]}"


def _format_seconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:,.1f} s"
