"""The tasks, as a list or as a tree of which task awaits which."""

from __future__ import annotations

from noria.sight.top import units
from noria.sight.top.details import task_detail
from noria.sight.top.lines import Line
from noria.sight.top.tables import DIM, Cell, Row, Table
from noria.sight.top.tasks import TaskItem, task_items, task_table
from noria.sight.top.tree import task_tree
from noria.sight.top.views.pane import Pane, Shown


class TasksView(Pane):
    """The table of tasks."""

    NAME, SHORT_NAME = "Tasks", "Tasks"
    EMPTY = "no tasks"

    def make_table(self) -> Table[TaskItem]:
        """Return the columns."""
        return task_table()

    def rows(self, shown: Shown) -> list[Row[TaskItem]]:
        """Return the tasks."""
        now = shown.view.observation.now
        items = task_items(shown.loop, shown.rates, now, shown.ended)
        if shown.flat:
            return self.table.rows(items, lambda item: item.key)
        return task_tree(items, self.table, shown.ascii)

    def figure(self, shown: Shown) -> Cell:
        """Return the number of tasks that are alive."""
        return units.known(shown.loop.tasks_alive), DIM

    def detail(self, item: TaskItem, shown: Shown, width: int) -> list[Line]:
        """Return a task's figures and await stack."""
        return task_detail(item, shown.loop, shown.history, width, shown.ascii)
