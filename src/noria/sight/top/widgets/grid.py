"""A table that draws only the rows in view: it stays fast with 100,000 rows."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from noria.sight.top.lines import Line
from noria.sight.top.tables import DIM, PLAIN, Column, Row, Table, fit
from noria.sight.top.text import cell_text, row_line
from noria.sight.top.widgets.panel import line_strip
from noria.sight.top.widgets.styles import CURSOR, HEADER


class Grid(ScrollView, can_focus=True):
    """A Table with a cursor. Its first line are the titles; a click on one sorts by it.

    The cursor stays on its row when the order changes, once it was moved; before, it stays on top.
    """

    DEFAULT_CSS = """
    Grid { height: 1fr; min-height: 3; overflow-x: hidden; overflow-y: auto; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", show=False),
        Binding("down,j", "move(1)", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("pagedown", "page(1)", show=False),
        Binding("home,g", "first", show=False),
        Binding("end,G", "last", show=False),
        Binding("enter", "choose", show=False),
    ]

    class Chosen(Message):
        """Enter was pressed on a row, or it was clicked twice."""

        def __init__(self, row: Row[Any]) -> None:
            super().__init__()
            self.row = row

    class Moved(Message):
        """The cursor is at another row."""

    class Sorted(Message):
        """A title was clicked."""

    def __init__(self, table: Table[Any], empty: str = "none") -> None:
        super().__init__()
        self.table = table
        self.rows: list[Row[Any]] = []
        self.cursor = 0
        self._followed: Hashable = None  # the key of the row that the cursor stays on
        self._empty = empty
        self._ascii = False

    def show(self, rows: list[Row[Any]], ascii: bool = False) -> None:
        """Replace the rows."""
        self.rows, self._ascii = rows, ascii
        if self._followed is not None:
            found = (i for i, row in enumerate(rows) if row.key == self._followed)
            self.cursor = next(found, self.cursor)
        self.cursor = max(min(self.cursor, len(rows) - 1), 0)
        self.virtual_size = Size(self.size.width, len(rows) + 1)
        if self._followed is not None:
            self._scroll_to_cursor()
        self.refresh()

    @property
    def selected(self) -> Row[Any] | None:
        """The row at the cursor."""
        return self.rows[self.cursor] if self.rows else None

    def columns(self) -> list[tuple[Column[Any], int]]:
        """Return the columns that fit, and their widths."""
        # The first character of a line is a margin; each cell has a space behind it.
        return fit(self.table.columns, max(self.size.width - 2, 4))

    def render_line(self, y: int) -> Strip:
        """Return the titles, or a row."""
        width = self.size.width
        if y == 0:
            return self._titles(width)
        position = y - 1 + self.scroll_offset.y
        if position >= len(self.rows):
            if position == 0:
                text = f"no row matches “{self.table.filter}”" if self.table.filter else self._empty
                return line_strip([(f" {text}", DIM)], width, self.app.no_color)
            return Strip.blank(width)
        line: Line = [(" ", PLAIN), *row_line(self.rows[position], self.columns())]
        if position != self.cursor or not self.has_focus:
            return line_strip(line, width, self.app.no_color)
        text = "".join(text for text, _ in line)
        return Strip([Segment(text, CURSOR)]).adjust_cell_length(width, CURSOR)

    def _titles(self, width: int) -> Strip:
        down, up = ("v", "^") if self._ascii else ("▾", "▴")
        segments = [Segment(" ", HEADER)]
        for column, space in self.columns():
            title = column.title
            style = HEADER
            if column.key == self.table.sort:
                mark = down if self.table.descending else up
                # A narrow column's mark takes the place behind it.
                title = f"{title}{mark}"
                style = HEADER + Style(color="cyan")
            text = cell_text(title, column, space)
            if len(title) == space + 1:
                segments.append(Segment(title, style))
            else:
                segments.append(Segment(text + " ", style))
        return Strip(segments).adjust_cell_length(width, HEADER)

    def _scroll_to_cursor(self) -> None:
        self.scroll_to_region(Region(0, self.cursor, self.size.width, 2), animate=False, force=True)

    def _move_to(self, position: int) -> None:
        self.cursor = max(min(position, len(self.rows) - 1), 0)
        row = self.selected
        self._followed = row.key if row else None
        self._scroll_to_cursor()
        self.refresh()
        self.post_message(self.Moved())

    def action_move(self, step: int) -> None:
        """Move the cursor."""
        self._move_to(self.cursor + step)

    def action_page(self, step: int) -> None:
        """Move the cursor by as many rows as are in view."""
        self._move_to(self.cursor + step * max(self.size.height - 2, 1))

    def action_first(self) -> None:
        """Move the cursor to the first row, and let it stay there."""
        self._move_to(0)
        self._followed = None

    def action_last(self) -> None:
        """Move the cursor to the last row."""
        self._move_to(len(self.rows) - 1)

    def action_choose(self) -> None:
        """Report the row at the cursor."""
        if (row := self.selected) is not None:
            self.post_message(self.Chosen(row))

    def on_resize(self, event: events.Resize) -> None:
        """Keep the cursor in view."""
        self.virtual_size = Size(self.size.width, len(self.rows) + 1)
        self._scroll_to_cursor()

    def on_focus(self) -> None:
        """Show the cursor."""
        self.refresh()

    def on_blur(self) -> None:
        """Hide the cursor."""
        self.refresh()

    def on_click(self, event: events.Click) -> None:
        """Sort by a title, move the cursor to a row, or choose the row that is at it."""
        if event.y == 0:
            self._click_title(event.x)
            return
        position = event.y - 1 + self.scroll_offset.y
        if position >= len(self.rows):
            return
        if position == self.cursor and self._followed is not None:
            self.action_choose()
        else:
            self._move_to(position)

    def _click_title(self, x: int) -> None:
        left = 1
        for column, width in self.columns():
            if left <= x <= left + width:
                self.table.sort_by(column.key)
                self.post_message(self.Sorted())
                return
            left += width + 1
