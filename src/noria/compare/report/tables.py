"""The numbers of a comparison as tables, for the terminal and the page.

Each column says which of its values is the best, and how important it is: a narrow terminal omits
the least important columns.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from rich.console import Console, Group
from rich.table import Table as RichTable
from rich.text import Text

from noria.compare.report import document, sentences
from noria.compare.report.document import Row, number

Best = Literal["min", "max"] | None
Value = float | int | str | None


@dataclass(frozen=True)
class Column:
    """One column: its heading, how a value is written, and which value is the best."""

    label: str
    write: Callable[[Any], str] = str
    best: Best = None
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
    """One formatted value; `best` is set on the best of its column within its group."""

    text: str
    best: bool = False


@dataclass
class Table:
    """A table with groups of rows; the best value is that of a group."""

    title: str
    columns: list[Column]
    groups: list[list[list[Value]]]
    notes: list[str] = field(default_factory=list)
    outside: set[tuple[Value, Value]] = field(default_factory=set)
    """The first two values of rows that cannot be the best: they served only some clients."""

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
        for group in self.groups:
            competing = [row for row in group if tuple(row[:2]) not in self.outside]
            best = [_best(column, [row[i] for row in competing]) for i, column in self._numbered]
            yield [
                [
                    Cell(
                        _text(column, row[i]),
                        best[i] is not None and row[i] == best[i] and row in competing,
                    )
                    for i, column in self._numbered
                ]
                for row in group
            ]

    @property
    def _numbered(self) -> list[tuple[int, Column]]:
        return list(enumerate(self.columns))


def throughput(results: dict[str, Any]) -> Table:
    """One row per model, one group per number of connections. Times in microseconds."""
    found = document.rows(results, "throughput")
    columns = [
        Column("conns", _whole),
        Column("model"),
        Column("messages/s", _whole, "max"),
        Column("p50 µs", _fixed, "min"),
        Column("p99 µs", _fixed, "min"),
        Column("p99.9 µs", _fixed, "min", keep=2),
        Column("user µs", _hundredths, "min", keep=6),
        Column("kernel µs", _hundredths, "min", keep=6),
        Column("syscalls", _hundredths, "min"),
        Column("empty polls", _hundredths, "min", keep=3),
    ]
    keys = ("messages_per_second", "p50_us", "p99_us", "p999_us")
    costs = ("user_us", "kernel_us", "syscalls_per_message", "empty_asks_per_message")
    groups = [
        [
            [connections, str(row["model"]), *(number(row, key) for key in keys + costs)]
            for row in _ordered(results, found)
            if number(row, "connections") == connections
        ]
        for connections in document.counts(found, "connections")
    ]
    size = number(document.section(results, "throughput"), "size")
    title = "Throughput" + (f", messages of {size:,.0f} bytes" if size else "")
    notes = _notes(found, "connections", "connections")
    outside: set[tuple[Value, Value]] = {
        (int(number(row, "connections") or 0), str(row["model"]))
        for row in found
        if sentences.serves_some(row)
    }
    return Table(title, columns, groups, notes, outside)


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
    columns = [Column("model"), *(Column(f"{n:,}", _hundredths, "min") for n in counts)]
    return Table("System calls per message, by connections", columns, [rows])


def phases(results: dict[str, Any]) -> Table:
    """One row per model: its median sample, in microseconds since the send."""
    columns = [
        Column("model"),
        Column("polled µs", _fixed, keep=4),
        Column("arrived µs", _fixed, keep=5),
        Column("ready µs", _fixed),
        Column("copy from µs", _fixed, keep=6),
        Column("copy to µs", _fixed),
        Column("handler µs", _fixed, "min"),
        Column("empty polls", _whole, keep=3),
    ]
    keys = ("asked", "arrived", "ready", "copy_begin", "copy_end", "handler")
    rows: list[list[Value]] = [
        [str(row["model"]), *(_thousandth(number(row, key)) for key in keys), number(row, "asks")]
        for row in document.phase_samples(results)
    ]
    if all(row[-1] is None for row in rows):
        columns.pop()
        rows = [row[:-1] for row in rows]
    return Table("The two phases, median sample, since the send", columns, [rows])


def waiting(results: dict[str, Any]) -> Table:
    """One row per model: first, second, median and last client's first answer, in ms."""
    columns = [
        Column("model"),
        Column("answered", _whole),
        Column("first ms", _hundredths, "min"),
        Column("second ms", _hundredths, "min"),
        Column("median ms", _hundredths, "min", keep=4),
        Column("last ms", _hundredths, "min"),
    ]
    rows: list[list[Value]] = []
    for name, times in document.first_answers(results).items():
        if times:
            second = times[1] if len(times) > 1 else None
            median = times[(len(times) - 1) // 2]
            rows.append([name, len(times), times[0], second, median, times[-1]])
        else:
            rows.append([name, 0, None, None, None, None])
    return Table("Waiting clients, time to the first answer", columns, [rows])


def idle(results: dict[str, Any]) -> list[Table]:
    """Two tables, time and CPU time per message: one row per model, one column per count."""
    found = document.rows(results, "idle")
    counts = document.counts(found, "idle")
    names = document.model_order(results, found)
    notes = _notes(found, "idle", "idle connections")
    made = []
    for key, what in (("us_per_message", "time"), ("cpu_us_per_message", "CPU time")):
        value = {(r["model"], number(r, "idle")): number(r, key) for r in found}
        # The ends are the most important: a narrow terminal omits the middle of the curve.
        columns = [Column("model")] + [
            Column(f"{n:,} idle", _fixed, "min", 9 if n in (counts[0], counts[-1]) else 5)
            for n in counts
        ]
        rows: list[list[Value]] = [
            [name, *(value.get((name, n)) for n in counts)] for name in names
        ]
        made.append(Table(f"Idle connections, {what} per message in µs", columns, [rows]))
    made[-1].notes.extend(notes)
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


def _best(column: Column, values: list[Value]) -> Value:
    """The best of a group, or None if all values are equal."""
    numbers = [value for value in values if isinstance(value, (int, float))]
    if column.best is None or len(numbers) < 2 or min(numbers) == max(numbers):
        return None
    return min(numbers) if column.best == "min" else max(numbers)


def _text(column: Column, value: Value) -> str:
    return "–" if value is None else column.write(value)


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
    return [
        f"{', '.join(f'{name} (from {at:,} {what})' for name, at in models.items())}: {note}"
        for note, models in by_note.items()
    ]
