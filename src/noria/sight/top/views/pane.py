"""What all views share: a panel above a table, both made from the newest observation."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, ClassVar

from textual import events
from textual.app import ComposeResult
from textual.containers import Vertical

from noria.sight.observation import LoopFigures
from noria.sight.top.history import LoopHistory
from noria.sight.top.lines import Line
from noria.sight.top.rates import LoopRates
from noria.sight.top.session import View
from noria.sight.top.tables import PLAIN, Cell, Row, Table
from noria.sight.top.widgets.grid import Grid
from noria.sight.top.widgets.panel import Panel


@dataclass(slots=True)
class Shown:
    """What the screen shows: one loop of a view, and the user's choices."""

    view: View
    loop: LoopFigures
    rates: LoopRates
    history: LoopHistory
    ended: bool = False  # tasks that are done and connections that are closed are shown
    flat: bool = False  # tasks are a list, not a tree
    ascii: bool = False


class Pane(Vertical):
    """A view. Subclasses say what its panel and its rows are."""

    DEFAULT_CSS = "Pane { height: 1fr; width: 1fr; }"

    NAME: ClassVar[str] = ""
    SHORT_NAME: ClassVar[str] = ""
    EMPTY: ClassVar[str] = "none"

    def __init__(self, id: str) -> None:
        super().__init__(id=id)
        self.table = self.make_table()
        self.panel = Panel()
        self.grid = Grid(self.table, self.EMPTY)
        self.shown: Shown | None = None

    def compose(self) -> ComposeResult:
        """Return the panel and the table."""
        yield self.panel
        yield self.grid

    def show(self, shown: Shown) -> None:
        """Show an observation."""
        self.shown = shown
        if self.size.width:  # 0 until the first layout, which calls on_resize
            lines = self.panel_lines(shown, self.size.width, self.app.size.height)
            # The table keeps a few lines on the smallest terminals.
            self.panel.show(lines[: max(self.size.height - 4, 0)])
            self.grid.show(self.rows(shown), shown.ascii)

    def on_resize(self, event: events.Resize) -> None:
        """Make the lines for the new width."""
        if self.shown is not None:
            self.show(self.shown)

    def make_table(self) -> Table[Any]:
        """Return the columns."""
        raise NotImplementedError

    def panel_lines(self, shown: Shown, width: int, height: int) -> list[Line]:
        """Return the lines above the table for a terminal of this size."""
        return []

    def rows(self, shown: Shown) -> list[Row[Any]]:
        """Return the rows of the table."""
        raise NotImplementedError

    def figure(self, shown: Shown) -> Cell:
        """Return the figure behind the name of the view."""
        return "", PLAIN

    def item(self, key: Hashable) -> Any:
        """Return the item with a key in what is shown now; None if it is not there any more."""
        return next((row.item for row in self.grid.rows if row.key == key), None)

    def label(self, item: Any) -> str:
        """Return the name of an item: the text of its first column."""
        return self.table.columns[0].cell(item)[0]

    def detail(self, item: Any, shown: Shown, width: int) -> list[Line]:
        """Return everything about an item."""
        raise NotImplementedError
