"""Screens above the views: details, help, and choices."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Hashable
from typing import Any, ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen, Screen

from noria.sight.top.keys import KEYS
from noria.sight.top.lines import Line, heading
from noria.sight.top.tables import ACCENT, PLAIN, Row, Table
from noria.sight.top.widgets.bars import TitleBar
from noria.sight.top.widgets.grid import Grid
from noria.sight.top.widgets.panel import Panel


class LinesScreen(ModalScreen[None]):
    """Lines that may be longer than the screen. *make_lines* gets the width."""

    DEFAULT_CSS = """
    LinesScreen { background: ansi_default; }
    LinesScreen VerticalScroll { height: 1fr; scrollbar-size-vertical: 1; padding-top: 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter,backspace,question_mark", "close", show=False),
        Binding("k", "scroll(-1)", show=False),
        Binding("j", "scroll(1)", show=False),
    ]

    def __init__(self, title: str, make_lines: Callable[[int], list[Line]]) -> None:
        super().__init__()
        self.bar = TitleBar()
        self.panel = Panel()
        self._title = title
        self._make_lines = make_lines

    def compose(self) -> ComposeResult:
        """Return the title and the lines."""
        yield self.bar
        with VerticalScroll():
            yield self.panel

    def on_mount(self) -> None:
        """Show the title."""
        self.bar.show(self._title, "", ("Escape closes", PLAIN))

    def on_resize(self, event: events.Resize) -> None:
        """Make the lines for the new width."""
        self.show()

    def show(self) -> None:
        """Make the lines again."""
        self.panel.show(self._make_lines(max(self.app.size.width - 1, 1)))

    def action_close(self) -> None:
        """Return to the views."""
        self.dismiss()

    def action_scroll(self, lines: int) -> None:
        """Scroll."""
        self.query_one(VerticalScroll).scroll_relative(y=lines, animate=False)


class ChoiceScreen(Screen[Hashable]):
    """A table from which one row is chosen; its key is the result, None if Escape was pressed.

    *rows* is called at each refresh.
    """

    DEFAULT_CSS = "ChoiceScreen { background: ansi_default; }"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q", "cancel", show=False)]

    def __init__(
        self,
        title: str,
        table: Table[Any],
        rows: Callable[[Table[Any]], list[Row[Any]]],
        empty: str,
    ) -> None:
        super().__init__()
        self.bar = TitleBar()
        self.grid = Grid(table, empty)
        self._title = title
        self._rows = rows

    def compose(self) -> ComposeResult:
        """Return the title and the table."""
        yield self.bar
        yield self.grid

    def on_mount(self) -> None:
        """Show the rows, and again every second."""
        self.bar.show(self._title, "", ("Enter chooses, Escape leaves", PLAIN))
        self.show()
        self.grid.focus()
        self.set_interval(1.0, self.show)

    def show(self) -> None:
        """Show the rows that there are now."""
        self.grid.show(self._rows(self.grid.table))

    def on_grid_sorted(self, event: Grid.Sorted) -> None:
        """Show the rows in the new order."""
        self.show()

    def on_grid_chosen(self, event: Grid.Chosen) -> None:
        """Return the key of the row."""
        event.stop()
        self.dismiss(event.row.key)

    def action_cancel(self) -> None:
        """Return nothing."""
        self.dismiss(None)


def help_lines(table: Table[Any], width: int) -> list[Line]:
    """Return the keys, and the columns of a table."""
    keys = [(key.shown, key.explanation) for key in KEYS if key.explanation]
    keys += [
        ("arrows, j k", "move; also Page Up, Page Down, Home, End"),
        ("mouse", "click a view, a title to sort by it, a row; scroll"),
    ]
    columns = [(column.title, column.explanation) for column in table.columns if column.explanation]
    return [
        heading("Keys"),
        *_explained(keys, width),
        [],
        heading("Columns of this view"),
        *_explained(columns, width),
        [],
        heading("Figures"),
        *_explained(
            [
                ("percentiles", "are of the last interval: upper bounds of buckets of 12.5%"),
                (
                    "sparklines",
                    "show the intervals before; those of durations are logarithmic, "
                    "from 1 µs to 1 s",
                ),
                (
                    "colours",
                    "red is a duration above the limit of a blocked loop, yellow one above "
                    "a tenth of it",
                ),
            ],
            width,
        ),
    ]


def _explained(pairs: list[tuple[str, str]], width: int) -> list[Line]:
    """Return names, and beside each its explanation in as many lines as it needs."""
    left = max(len(name) for name, _ in pairs) + 4
    lines: list[Line] = []
    for name, explanation in pairs:
        head = f"  {name}".ljust(left)
        for text in textwrap.wrap(explanation, max(min(width, 100) - left - 1, 20)):
            lines.append([(head, ACCENT), (text, PLAIN)])
            head = " " * left
    return lines
