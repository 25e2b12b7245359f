"""Tables as data: columns with widths and priorities, rows, sorting, filtering, fitting a width.

The terminal's widget and the text output show the same tables.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

R = TypeVar("R")

# How a cell looks; `widgets.styles` and `text` say what each is on a terminal.
PLAIN, DIM, GOOD, WARN, BAD, ACCENT, STRONG = "", "dim", "good", "warn", "bad", "accent", "strong"

MOST_GROWTH = 3  # how many times its least width a flexible column may be, except the last

Cell = tuple[str, str]  # text and style


@dataclass(frozen=True)
class Column(Generic[R]):
    """A column of rows of type R."""

    key: str
    title: str
    width: int  # characters; of a flexible column the least
    cell: Callable[[R], Cell]
    value: Callable[[R], Any]  # what it sorts by: all numbers or all strings
    priority: int = 1  # the columns with the highest numbers are dropped first
    flexible: int = 0  # its part of the width that is left
    right: bool = True
    explanation: str = ""

    @property
    def descending_first(self) -> bool:
        """Whether the first sort by this column puts the largest value on top."""
        return self.right


@dataclass(slots=True)
class Row(Generic[R]):
    """A row with its place in the tree."""

    key: Hashable
    item: R
    branch: str = ""  # the lines in front of the first column: "│  ├─ "
    dimmed: bool = False  # it matches no filter, but a row below it does


@dataclass(slots=True)
class Table(Generic[R]):
    """Columns, and how rows are sorted. `text` returns what the filter searches."""

    columns: list[Column[R]]
    sort: str
    text: Callable[[R], str]
    descending: bool = True
    filter: str = ""
    indexes: dict[str, Column[R]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.indexes = {column.key: column for column in self.columns}

    def sort_by(self, key: str) -> None:
        """Sort by a column; reverse the order if it is the present one."""
        if key == self.sort:
            self.descending = not self.descending
        else:
            self.sort = key
            self.descending = self.indexes[key].descending_first

    def sort_beside(self, step: int, shown: list[Column[R]]) -> None:
        """Sort by the column left (-1) or right (+1) of the present one among those shown."""
        keys = [column.key for column in shown]
        position = keys.index(self.sort) + step if self.sort in keys else 0
        self.sort_by(keys[position % len(keys)])

    def sorted(self, items: Iterable[R]) -> list[R]:
        """Return the items in order."""
        return sorted(items, key=self.indexes[self.sort].value, reverse=self.descending)

    def matches(self, item: R) -> bool:
        """Return whether an item has every word of the filter."""
        text = self.text(item).lower() if self.filter else ""
        return all(word in text for word in self.filter.lower().split())

    def rows(self, items: Iterable[R], key: Callable[[R], Hashable]) -> list[Row[R]]:
        """Return the rows that match, in order."""
        return [Row(key(item), item) for item in self.sorted(filter(self.matches, items))]


def fit(columns: list[Column[R]], width: int, gap: int = 1) -> list[tuple[Column[R], int]]:
    """Return the columns that fit in *width* characters, in order, and the width of each.

    Columns with the highest priority number are dropped first; the first column always stays.
    """
    kept = list(columns)

    def needed() -> int:
        return sum(column.width for column in kept) + gap * (len(kept) - 1)

    while len(kept) > 1 and needed() > width:
        least = max(range(1, len(kept)), key=lambda position: (kept[position].priority, position))
        del kept[least]
    widths = [column.width for column in kept]
    spare = max(width - needed(), 0)
    growing = [position for position, column in enumerate(kept) if column.flexible]
    while growing:
        parts = sum(kept[position].flexible for position in growing)
        position = growing.pop(0)
        column = kept[position]
        added = spare * column.flexible // parts
        if growing:  # the last one takes what is left
            added = min(added, column.width * (MOST_GROWTH - 1))
        widths[position] += added
        spare -= added
    if len(kept) == 1:
        widths[0] = min(widths[0], width)
    return list(zip(kept, widths, strict=True))
