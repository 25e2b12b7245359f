"""The loop: how busy it is, its delays, and the functions that use it."""

from __future__ import annotations

from noria.sight.top import units
from noria.sight.top.codes import code_table, item_key
from noria.sight.top.details import code_detail
from noria.sight.top.lines import Line, utilization_level
from noria.sight.top.panels import loop_panel
from noria.sight.top.rates import CodeRates
from noria.sight.top.tables import Cell, Row, Table
from noria.sight.top.views.pane import Pane, Shown


class LoopView(Pane):
    """Figures of the loop, and the table of handlers."""

    NAME, SHORT_NAME = "Loop", "Loop"
    EMPTY = "no handler has run yet"

    def make_table(self) -> Table[CodeRates]:
        """Return the columns."""
        return code_table("handler")

    def panel_lines(self, shown: Shown, width: int, height: int) -> list[Line]:
        """Return the loop's figures."""
        return [
            *loop_panel(
                shown.view.observation,
                shown.loop,
                shown.rates,
                shown.history,
                width,
                height,
                shown.ascii,
            ),
            [],
        ]

    def rows(self, shown: Shown) -> list[Row[CodeRates]]:
        """Return the handlers."""
        return self.table.rows(shown.rates.codes, item_key)

    def figure(self, shown: Shown) -> Cell:
        """Return the utilisation."""
        busy = shown.rates.utilization
        return units.share(busy) or "0%", utilization_level(busy)

    def detail(self, item: CodeRates, shown: Shown, width: int) -> list[Line]:
        """Return a handler's source, longest calls and blocks."""
        return code_detail(item, shown.view.observation, shown.loop, width, shown.ascii)
