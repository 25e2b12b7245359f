"""The numbers of a comparison as tables, for the terminal and the page.

A value that is measurably better than all others of its column is marked. Each column says how
important it is: a narrow terminal omits the least important columns.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from rich.console import Console, Group
from rich.table import Table as RichTable
from rich.text import Text

from noria.compare.report import document, sentences, standings
from noria.compare.report.document import Row, number
from noria.compare.report.standings import ANSWERS, Standing
from noria.compare.statistics import Spread, spread

Value = Spread | float | int | str | None


@dataclass(frozen=True)
class Column:
    """One column: its heading, how a value is written, and how important it is."""

    label: str
    write: Callable[[Any], str] = str
    keep: int = 9
    """Its importance: a narrow terminal omits the lowest first, and never omits 9."""
    about: str = ""
    """An explanation for a note under the table."""

    @property
    def numeric(self) -> bool:
        """Whether it has numbers, which are aligned right."""
        return self.write is not str


@dataclass(frozen=True)
class Cell:
    """One formatted value; `best` is set if it is measurably the best of its column and group."""

    text: str
    best: bool = False


@dataclass
class Table:
    """A table with groups of rows."""

    title: str
    columns: list[Column]
    groups: list[list[list[Value]]]
    notes: list[str] = field(default_factory=list)
    best: dict[tuple[int, int], str] = field(default_factory=dict)
    """The model with the best value, by the number of the group and of the column."""

    def all_notes(self, shown: Iterable[int] | None = None) -> list[str]:
        """The notes; the first explains the columns `shown` (default: all)."""
        columns = self.columns if shown is None else [self.columns[i] for i in shown]
        about = {column.label: column.about for column in columns if column.about}
        words = "; ".join(f"{label}: {what}" for label, what in about.items())
        return [f"{words}.", *self.notes] if words else self.notes

    @property
    def empty(self) -> bool:
        """Whether there is no row."""
        return not any(self.groups)

    def cells(self) -> Iterator[list[list[Cell]]]:
        """The groups with formatted values, the best ones marked."""
        for group, rows in enumerate(self.groups):
            yield [
                [
                    Cell(
                        _text(column, row[i]),
                        (group, i) in self.best and self.best[group, i] in row[:2],
                    )
                    for i, column in enumerate(self.columns)
                ]
                for row in rows
            ]

    def mark(self, group: int, column: int, standing: Standing) -> None:
        """Mark the winner of the standing, if there is one."""
        if standing.winner is not None:
            self.best[group, column] = standing.winner


def throughput(results: dict[str, Any]) -> Table:
    """One row per model, one group per number of connections. Times in microseconds."""
    found = document.rows(results, "throughput")
    made = {
        "messages_per_second": Column("messages/s", _spread(_whole)),
        "p50_us": Column("p50 µs", _fixed, keep=8),
        "p99_us": Column("p99 µs", _fixed, keep=7),
        "p999_us": Column("p99.9 µs", _fixed, keep=4),
        "cpu_us": Column("CPU µs", _spread(_hundredths)),
        "user_us": Column("user µs", _hundredths, keep=2),
        "kernel_us": Column("kernel µs", _hundredths, keep=2),
        "syscalls_per_message": Column("syscalls", _hundredths),
        "empty_asks_per_message": Column("empty polls", _hundredths, keep=3),
    }
    if not any(number(row, "cpu_us") for row in found):
        del made["cpu_us"]
    with_spread = ("messages_per_second", "cpu_us")
    # Without those that were left out for all models: the notes say so.
    counts = document.counts(
        (row for row in found if any(number(row, key) is not None for key in made)), "connections"
    )
    groups: list[list[list[Value]]] = [
        [
            [
                connections,
                str(row["model"]),
                *(
                    spread(document.rounds(row, key)) if key in with_spread else number(row, key)
                    for key in made
                ),
            ]
            for row in _ordered(results, found)
            if number(row, "connections") == connections
        ]
        for connections in counts
    ]
    size = number(document.section(results, "throughput"), "size")
    title = "Throughput" + (f", messages of {size:,.0f} bytes" if size else "")
    columns = [Column("conns", _whole), Column("model"), *made.values()]
    table = Table(title, columns, groups, _notes(found, "connections", "connections"))
    for group, connections in enumerate(counts):
        for i, key in enumerate(made):
            table.mark(group, 2 + i, standings.throughput(results, key, connections))
    return table


def syscalls(results: dict[str, Any]) -> Table:
    """System calls per message: one row per model, one column per number of connections."""
    found = document.rows(results, "throughput")
    key = "syscalls_per_message"
    known = [row for row in found if number(row, key) is not None]
    counts = document.counts(known, "connections")
    value = {(row["model"], number(row, "connections")): number(row, key) for row in known}
    rows: list[list[Value]] = [
        [name, *(value.get((name, n)) for n in counts)]
        for name in document.model_order(results, known)
    ]
    columns = [Column("model"), *(Column(f"{n:,}", _hundredths) for n in counts)]
    table = Table("System calls per message, by connections", columns, [rows])
    for i, n in enumerate(counts):
        table.mark(0, 1 + i, standings.throughput(results, key, n))
    return table


def phases(results: dict[str, Any]) -> Table:
    """One row per model: its median sample, in microseconds since the send."""
    columns = [
        Column("model"),
        Column("polled µs", _fixed, keep=4),
        Column("arrived µs", _fixed, keep=5),
        Column("ready µs", _fixed),
        Column("copy from µs", _fixed, keep=6),
        Column("copy to µs", _fixed),
        Column("handler µs", _spread(_fixed)),
        Column("empty polls", _whole, keep=3),
    ]
    keys = ("asked", "arrived", "ready", "copy_begin", "copy_end")
    handlers = document.handler_rounds(results)
    rows: list[list[Value]] = [
        [
            str(row["model"]),
            *(_thousandth(number(row, key)) for key in keys),
            spread(_thousandth(value) for value in handlers[str(row["model"])]),
            number(row, "asks"),
        ]
        for row in document.phase_samples(results)
    ]
    if all(row[-1] is None for row in rows):
        columns.pop()
        rows = [row[:-1] for row in rows]
    table = Table("The two phases, median sample, since the send", columns, [rows])
    table.mark(0, 6, standings.handler(results))
    return table


def waiting(results: dict[str, Any]) -> Table:
    """One row per model: first, second, median and last client's first answer, in ms."""
    columns = [
        Column("model"),
        Column("answered", _whole, keep=8),
        *(
            Column(f"{which} ms", _spread(_hundredths), keep=4 if which == "median" else 9)
            for which in ANSWERS
        ),
    ]
    found = [standings.answer(results, which) for which in ANSWERS]
    rows: list[list[Value]] = [
        [name, len(times), *(standing.spreads.get(name) for standing in found)]
        for name, times in document.first_answers(results).items()
    ]
    table = Table("Waiting clients, time to the first answer", columns, [rows])
    for i, standing in enumerate(found):
        table.mark(0, 2 + i, standing)
    return table


def idle(results: dict[str, Any]) -> list[Table]:
    """Two tables, time and CPU time per message: one row per model, one column per count."""
    found = document.rows(results, "idle")
    counts = document.counts(found, "idle")
    names = document.model_order(results, found)
    made = []
    for key, what in (("us_per_message", "time"), ("cpu_us_per_message", "CPU time")):
        value = {
            (row["model"], number(row, "idle")): spread(document.rounds(row, key)) for row in found
        }
        # The ends are the most important: a narrow terminal omits the middle of the curve.
        columns = [Column("model")] + [
            Column(f"{n:,} idle", _spread(_fixed), 9 if n in (counts[0], counts[-1]) else 5)
            for n in counts
        ]
        rows: list[list[Value]] = [
            [name, *(value.get((name, n)) for n in counts)] for name in names
        ]
        table = Table(f"Idle connections, {what} per message in µs", columns, [rows])
        for i, n in enumerate(counts):
            table.mark(0, 1 + i, standings.idle(results, key, n))
        made.append(table)
    made[-1].notes.extend(_notes(found, "idle", "idle connections"))
    return made


def triggers(results: dict[str, Any]) -> Table:
    """One row per model: the number of polls, and of those that reported the unread data."""
    columns = [
        Column("model"),
        Column("trigger"),
        Column("unread bytes", _whole),
        Column("polls", _whole),
        Column("reported", _whole),
    ]
    rows: list[list[Value]] = [
        [
            str(row["model"]),
            str(row.get("trigger") or ""),
            *(number(row, key) for key in ("unread_bytes", "asks", "told")),
        ]
        for row in _ordered(results, document.rows(results, "triggers"))
    ]
    return Table("Level and edge, the same unread data", columns, [rows])


def of_figure(results: dict[str, Any], figure: str) -> list[Table]:
    """The tables of one figure, by its name in `sentences.FIGURES`."""
    if figure == "idle":
        return idle(results)
    one = {"throughput": throughput, "phases": phases, "waiting": waiting, "triggers": triggers}
    return [one[figure](results)]


def print_tables(results: dict[str, Any], console: Console) -> None:
    """Print the tables of each figure, with its sentences below.

    The tables fit 100 columns; a narrower console gets fewer columns.
    """
    missing = [
        f"{model['name']} ({model.get('reason') or 'no reason given'})"
        for model in document.models(results)
        if not model.get("available", True)
    ]
    if missing:
        console.print(Text(f"Not available here: {', '.join(missing)}.", style="yellow"))
        console.print()
    asked = results.get("only") or list(sentences.FIGURES)
    for figure, sentence in sentences.FIGURES.items():
        if figure not in asked:
            continue
        for table in of_figure(results, figure):
            if not table.empty:
                console.print(for_terminal(table, console.width))
        console.print(Text(sentence(results), style="italic"))
        console.print()
    _print_noise(results, console)


def _print_noise(results: dict[str, Any], console: Console) -> None:
    text = sentences.noise(results)
    if text:
        console.print(Text(text, style="dim"))
    warning = str(document.section(results, "noise").get("warning") or "")
    if warning:
        console.print(Text(f"Warning: {warning}.", style="yellow"))
    if text or warning:
        console.print()


# -- the terminal ----------------------------------------------------------------------------------


def for_terminal(table: Table, width: int) -> Group:
    """The table for a terminal of `width` columns, with its notes below."""
    groups = list(table.cells())
    shown = _fitting(table.columns, groups, width)
    drawn = RichTable(
        title=Text(table.title, style="bold"),
        title_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
        header_style="dim",
    )
    for i in shown:
        column = table.columns[i]
        right: Literal["left", "right"] = "right" if column.numeric else "left"
        drawn.add_column(column.label, justify=right, no_wrap=True)
    for nth, group in enumerate(groups):
        if nth:
            drawn.add_row()
        for row in group:
            drawn.add_row(
                *(Text(row[i].text, style="bold green" if row[i].best else "") for i in shown)
            )
    return Group(drawn, *(Text(note, style="dim") for note in table.all_notes(shown)))


def _fitting(columns: list[Column], groups: list[list[list[Cell]]], width: int) -> list[int]:
    """The columns that fit, after omitting the least important ones."""
    wide = [
        max([len(column.label), *(len(row[i].text) for group in groups for row in group)])
        for i, column in enumerate(columns)
    ]
    shown = list(range(len(columns)))
    while sum(wide[i] + 2 for i in shown) > width + 2:
        least = min(shown, key=lambda i: (columns[i].keep, -i))
        if columns[least].keep == 9:
            break
        shown.remove(least)
    return shown


# -- values ----------------------------------------------------------------------------------------


def _text(column: Column, value: Value) -> str:
    return "–" if value is None else column.write(value)


def _spread(write: Callable[[float], str]) -> Callable[[Spread], str]:
    """Return a function that writes a median and how far the rounds lie from it: "12.3 ±4%"."""

    def written(value: Spread) -> str:
        text = write(value.median)
        if value.lowest == value.highest or not value.median:
            return text
        return f"{text} ±{100 * (value.highest - value.lowest) / 2 / abs(value.median):.0f}%"

    return written


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def _fixed(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.1f}"


def _hundredths(value: float) -> str:
    return f"{value:,.2f}"


def _thousandth(value: float | None) -> float | None:
    return None if value is None else value / 1000


def _ordered(results: dict[str, Any], found: list[Row]) -> list[Row]:
    """The rows in the order of the models."""
    order = document.model_order(results, found)
    return sorted(found, key=lambda row: order.index(str(row["model"])))


def _notes(found: list[Row], axis: str, what: str) -> list[str]:
    """Each distinct note once, with its models and from which count on."""
    by_note: dict[str, dict[str, int]] = {}
    for row in found:
        for note in str(row.get("note") or "").split("; "):
            if note.strip():
                models = by_note.setdefault(note.strip(), {})
                models.setdefault(str(row["model"]), int(number(row, axis) or 0))
    everyone = {str(row["model"]) for row in found}
    written = []
    for note, models in by_note.items():
        starts = set(models.values())
        if len(everyone) > 1 and models.keys() == everyone and len(starts) == 1:
            written.append(f"all models (from {starts.pop():,} {what}): {note}")
        else:
            who = ", ".join(f"{name} (from {at:,} {what})" for name, at in models.items())
            written.append(f"{who}: {note}")
    return written
