"""The connections, and what waits on them."""

from __future__ import annotations

from noria.sight.top import units
from noria.sight.top.connections import ConnectionItem, connection_items, connection_table
from noria.sight.top.details import connection_detail
from noria.sight.top.lines import Line
from noria.sight.top.tables import DIM, Cell, Row, Table
from noria.sight.top.views.pane import Pane, Shown


class ConnectionsView(Pane):
    """The table of connections."""

    NAME, SHORT_NAME = "Connections", "Conns"
    EMPTY = "no connections"

    def make_table(self) -> Table[ConnectionItem]:
        """Return the columns."""
        return connection_table()

    def rows(self, shown: Shown) -> list[Row[ConnectionItem]]:
        """Return the connections."""
        now = shown.view.observation.now
        items = connection_items(shown.loop, shown.rates, now, shown.ended)
        return self.table.rows(items, lambda item: item.key)

    def figure(self, shown: Shown) -> Cell:
        """Return the number of open connections."""
        return units.number(shown.loop.connections_open), DIM

    def detail(self, item: ConnectionItem, shown: Shown, width: int) -> list[Line]:
        """Return a connection's figures and the code that uses it."""
        return connection_detail(item, shown.history, width, shown.ascii)
