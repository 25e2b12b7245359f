"""What ``noria work`` prints: the subscriptions, events, the end and a summary; as text or JSON."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from noria.bus.bus import Bus
from noria.bus.contract import EVERY_TYPE
from noria.bus.event import Event
from noria.bus.handler import Registration, is_async
from noria.cli.connect.terminal_text import escape_line
from noria.cli.standard_output import output_width, print_json, print_line
from noria.cli.tables import print_table, table
from noria.cli.units import plural
from noria.cli.work.options import WorkOptions
from noria.cli.work.totals import COUNTS, WorkTotals
from noria.errors import error_message

if TYPE_CHECKING:
    from rich.table import Table


WIDE = 100  # characters from which on the summary has the groups


class TextOutput:
    """Prints text for a person."""

    def __init__(self, options: WorkOptions) -> None:
        self.options = options
        # Handlers of the module that was named are shown without it.
        self._prefix = options.target.partition(":")[0] + "."

    def started(self, bus: Bus, model: str) -> None:
        """Print what is subscribed, and how to stop."""
        options = self.options
        print_line(
            f"{options.target} on {bus.url.shown}, {plural(options.workers, 'worker')}, "
            f"model {model}"
        )
        print_line("")
        print_table(_subscriptions(bus, self._prefix))
        print_line("")
        if not bus.broker.durable:
            print_line("memory: has the events of this process only")
        if options.metrics is not None:
            print_line(f"metrics at {options.metrics}")
        print_line("press Ctrl-C to stop")

    def handled(
        self, registration: Registration, event: Event, seconds: float, error: BaseException | None
    ) -> None:
        """Print a line for a run of a handler."""
        name = registration.name.rpartition(".")[2]
        outcome = "handled" if error is None else "failed "
        attempt = f"  attempt {event.attempt}" if event.attempt > 1 else ""
        reason = "" if error is None else f"  {type(error).__name__}: {error_message(error)}"
        print_line(
            f"{time.strftime('%H:%M:%S')}  {outcome}  {escape_line(event.type)}  {name}  "
            f"{escape_line(event.id)}  {format_seconds(seconds)}{attempt}{reason}"
        )

    def stopping(self, in_flight: int | None, grace: float) -> None:
        """Print that handlers have time to end. `in_flight`: None for an unknown number."""
        if in_flight == 0:
            return
        what = "handlers" if in_flight is None else plural(in_flight, "event") + " in flight"
        have = "has" if in_flight == 1 else "have"
        print_line(f"stopping: {what} {have} {grace:g} s; Ctrl-C again stops at once")

    def worker_ended(self, pid: int, how: str) -> None:
        """Print that a worker is replaced by another one."""
        print_line(f"worker {pid} ended ({how}): starting another")

    def reloading(self, changed: list[str]) -> None:
        """Print which files have changed."""
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        print_line(f"\nreloading: {', '.join(changed[:3])}{more} changed")

    def waiting_for_change(self) -> None:
        """Print that the worker has ended, and what starts it again."""
        print_line("the worker has ended; the next change of a file starts it again")

    def summary(self, totals: WorkTotals, seconds: float, restarts: int = 0) -> None:
        """Print the totals; `seconds` since the start."""
        handled = totals.sum("handled")
        text = f"\nhandled {plural(handled, 'event')} in {format_seconds(seconds)}"
        if handled and seconds > 0:
            text += f", {format_number(handled / seconds)} a second"
        others = {
            "retried": totals.sum("retried"),
            "dead": totals.sum("dead"),
            "returned": totals.sum("returned"),
            "emitted": totals.published,
            "not emitted": totals.publish_failures,
        }
        text += "".join(f"; {number:,} {name}" for name, number in others.items() if number)
        print_line(text)
        if totals.sum("handled") or totals.sum("failed"):
            print_line("")
            print_table(_results(totals, self._prefix))
        if totals.sum("dead"):
            print_line(f"\n'noria events dead {totals.broker}' lists the dead letters")
        if restarts:
            what = "what it did is" if restarts == 1 else "what they did is"
            print_line(f"{plural(restarts, 'worker')} died; {what} not in these numbers")


class JsonOutput(TextOutput):
    """Prints the same as JSON objects, one a line."""

    def started(self, bus: Bus, model: str) -> None:
        """Print the subscriptions."""
        options = self.options
        print_json(
            event="started",
            target=options.target,
            broker=bus.url.shown,
            model=model,
            pid=os.getpid(),
            workers=options.workers,
            subscriptions=[
                {
                    "type": each.type,
                    "group": each.group,
                    "handler": each.name,
                    "concurrency": each.subscription.concurrency,
                    "retries": each.retries,
                    "claim": each.subscription.claim,
                    "start": each.subscription.start,
                    "thread": not is_async(each.handler),
                }
                for each in bus.registrations
            ],
            **({} if options.metrics is None else {"metrics": options.metrics}),
        )

    def handled(
        self, registration: Registration, event: Event, seconds: float, error: BaseException | None
    ) -> None:
        """Print an object for a run of a handler."""
        print_json(
            event="handled" if error is None else "failed",
            type=event.type,
            group=registration.group,
            handler=registration.name,
            id=event.id,
            attempt=event.attempt,
            seconds=round(seconds, 6),
            error=None if error is None else f"{type(error).__name__}: {error_message(error)}",
        )

    def stopping(self, in_flight: int | None, grace: float) -> None:
        """Print that the bus drains."""
        print_json(event="stopping", in_flight=in_flight, grace=grace)

    def worker_ended(self, pid: int, how: str) -> None:
        """Print that a worker is replaced by another one."""
        print_json(event="worker_ended", pid=pid, how=how)

    def reloading(self, changed: list[str]) -> None:
        """Print which files have changed."""
        print_json(event="reloading", changed=changed)

    def waiting_for_change(self) -> None:
        """Print that the worker has ended."""
        print_json(event="waiting_for_change")

    def summary(self, totals: WorkTotals, seconds: float, restarts: int = 0) -> None:
        """Print the totals."""
        handled = totals.sum("handled")
        print_json(
            event="summary",
            seconds=round(seconds, 3),
            **{name: totals.sum(name) for name in COUNTS},
            rate=round(handled / seconds, 3) if seconds > 0 else 0.0,
            published=totals.published,
            publish_failures=totals.publish_failures,
            workers=self.options.workers,
            restarts=restarts,
            handlers=[
                {
                    "type": each.type,
                    "group": each.group,
                    "handler": each.handler,
                    **{name: getattr(each, name) for name in COUNTS},
                    "handler_seconds": round(each.seconds, 6),
                    "p50": _finite(each.quantile(0.5)),
                    "p99": _finite(each.quantile(0.99)),
                }
                for each in totals.handlers
            ],
        )


def _subscriptions(bus: Bus, prefix: str) -> Table:
    made = table(
        *("type", "group", "handler", "at once", "retries"), numbers=("at once", "retries")
    )
    for each in bus.registrations:
        thread = "" if is_async(each.handler) else " (thread)"
        made.add_row(
            "all types" if each.type == EVERY_TYPE else each.type,
            each.group or "[dim]each worker[/]",
            each.name.removeprefix(prefix) + thread,
            f"{each.subscription.concurrency:,}",
            f"{each.retries:,}",
        )
    return made


def _results(totals: WorkTotals, prefix: str) -> Table:
    numbers = ("handled", "retried", "dead", "median", "99%")
    wide = output_width() >= WIDE
    made = table("type", *(("group",) if wide else ()), "handler", *numbers, numbers=numbers)
    for each in totals.handlers:
        made.add_row(
            "all types" if each.type == EVERY_TYPE else each.type,
            *((each.group or "[dim]each worker[/]",) if wide else ()),
            each.handler.removeprefix(prefix),
            f"{each.handled:,}",
            f"[yellow]{each.retried:,}[/]" if each.retried else "0",
            f"[red]{each.dead:,}[/]" if each.dead else "0",
            _within(each.quantile(0.5)),
            _within(each.quantile(0.99)),
        )
    return made


def _within(bound: float | None) -> str:
    """Return a quantile, of which only the bound of its bucket is known."""
    if bound is None:
        return ""
    if bound == float("inf"):
        return "> 60 s"
    return f"< {bound:g} s" if bound >= 1 else f"< {bound * 1000:g} ms"


def _finite(bound: float | None) -> float | None:
    return None if bound is None or bound == float("inf") else bound


def format_number(number: float) -> str:
    """Return a rate with two digits or more."""
    return f"{number:,.0f}" if number >= 10 else f"{number:.1f}"


def format_seconds(seconds: float) -> str:
    """Return a duration: 3.2 ms, 12.3 s, 4 min 5 s."""
    if seconds < 1:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
