"""The findings, and below them the one at the cursor."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import VerticalScroll

from noria.sight.findings import Finding
from noria.sight.top.details import finding_detail
from noria.sight.top.finding_table import finding_key, finding_table
from noria.sight.top.lines import Line
from noria.sight.top.tables import BAD, DIM, WARN, Cell, Row, Table
from noria.sight.top.views.pane import Pane, Shown
from noria.sight.top.widgets.grid import Grid


class FindingsView(Pane):
    """The table of findings of all loops, with the evidence below."""

    NAME, SHORT_NAME = "Findings", "Findings"
    EMPTY = "no findings: nothing looks wrong"

    DEFAULT_CSS = """
    FindingsView Grid { height: auto; max-height: 50%; }
    FindingsView VerticalScroll { height: 1fr; scrollbar-size-vertical: 1; padding-top: 1; }
    """

    def make_table(self) -> Table[Finding]:
        """Return the columns."""
        return finding_table()

    def compose(self) -> ComposeResult:
        """Return the table and the detail."""
        yield self.grid
        with VerticalScroll(can_focus=False):
            yield self.panel

    def show(self, shown: Shown) -> None:
        """Show an observation."""
        self.shown = shown
        if self.size.width:
            self.grid.show(self.rows(shown), shown.ascii)
            self._show_selected()

    def rows(self, shown: Shown) -> list[Row[Finding]]:
        """Return the findings."""
        return self.table.rows(shown.view.findings, finding_key)

    def figure(self, shown: Shown) -> Cell:
        """Return the number of findings."""
        findings = shown.view.findings
        if not findings:
            return "0", DIM
        errors = any(finding.severity == "error" for finding in findings)
        return str(len(findings)), BAD if errors else WARN

    def detail(self, item: Finding, shown: Shown, width: int) -> list[Line]:
        """Return a finding's evidence and advice."""
        return finding_detail(item, shown.view.observation, width, shown.ascii)

    def label(self, item: Finding) -> str:
        """Return the kind of a finding."""
        return item.kind

    def on_grid_moved(self, event: Grid.Moved) -> None:
        """Show the finding at the cursor."""
        self._show_selected()

    def _show_selected(self) -> None:
        row = self.grid.selected
        if row is None or self.shown is None:
            self.panel.show([])
        else:
            self.panel.show(self.detail(row.item, self.shown, self.size.width))
