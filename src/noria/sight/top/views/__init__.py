"""The views of `noria top`: a panel of figures and a table each."""

from __future__ import annotations

from noria.sight.top.views.connections import ConnectionsView
from noria.sight.top.views.files import FilesView
from noria.sight.top.views.findings import FindingsView
from noria.sight.top.views.loop import LoopView
from noria.sight.top.views.pane import Pane, Shown
from noria.sight.top.views.tasks import TasksView
from noria.sight.top.views.timers import TimersView

VIEWS: tuple[type[Pane], ...] = (
    LoopView,
    TasksView,
    ConnectionsView,
    TimersView,
    FilesView,
    FindingsView,
)

__all__ = ["VIEWS", "Pane", "Shown"]
