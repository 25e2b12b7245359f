"""The timers, and how late they are."""

from __future__ import annotations

from noria.sight.top import units
from noria.sight.top.codes import code_table, item_key
from noria.sight.top.details import code_detail
from noria.sight.top.lines import Line
from noria.sight.top.panels import timers_panel
from noria.sight.top.rates import CodeRates
from noria.sight.top.tables import DIM, Cell, Row, Table
from noria.sight.top.views.pane import Pane, Shown


class TimersView(Pane):
    """Lateness, and the table of what timers call."""

    NAME, SHORT_NAME = "Timers", "Timers"
    EMPTY = "no timer has run yet"

    def make_table(self) -> Table[CodeRates]:
        """Return the columns."""
        return code_table("timer", kinds=False)

    def panel_lines(self, shown: Shown, width: int, height: int) -> list[Line]:
        """Return the lateness."""
        return timers_panel(shown.loop, shown.rates, shown.history, width, height, shown.ascii)

    def rows(self, shown: Shown) -> list[Row[CodeRates]]:
        """Return what timers call."""
        return self.table.rows(shown.rates.timer_codes, item_key)

    def figure(self, shown: Shown) -> Cell:
        """Return the number of pending timers."""
        return units.number(shown.loop.timers.pending), DIM

    def detail(self, item: CodeRates, shown: Shown, width: int) -> list[Line]:
        """Return the source and the longest calls."""
        return code_detail(item, shown.view.observation, shown.loop, width, shown.ascii)
