"""Operations on files, and the executor."""

from __future__ import annotations

from noria.sight.top import units
from noria.sight.top.codes import code_table, item_key
from noria.sight.top.details import code_detail
from noria.sight.top.lines import Line
from noria.sight.top.panels import files_panel
from noria.sight.top.rates import CodeRates
from noria.sight.top.tables import DIM, WARN, Cell, Row, Table
from noria.sight.top.views.pane import Pane, Shown


class FilesView(Pane):
    """Figures of both, and the table of the executor's jobs."""

    NAME, SHORT_NAME = "Files, executor", "Files"
    EMPTY = "no job was given to the executor yet"

    def make_table(self) -> Table[CodeRates]:
        """Return the columns."""
        return code_table("job", alarming=False, kinds=False)

    def panel_lines(self, shown: Shown, width: int, height: int) -> list[Line]:
        """Return the figures of both."""
        return files_panel(shown.loop, shown.rates, shown.history, width, height, shown.ascii)

    def rows(self, shown: Shown) -> list[Row[CodeRates]]:
        """Return the functions that run in the executor."""
        return self.table.rows(shown.rates.job_codes, item_key)

    def figure(self, shown: Shown) -> Cell:
        """Return the length of the executor's queue."""
        queued = shown.loop.executor.queued
        return (units.number(queued), WARN) if queued else ("", DIM)

    def detail(self, item: CodeRates, shown: Shown, width: int) -> list[Line]:
        """Return the source."""
        return code_detail(item, shown.view.observation, shown.loop, width, shown.ascii)
