"""The terminal application."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, ClassVar

from textual import events
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import ContentSwitcher, Input

from noria.errors import NoriaError
from noria.sight.observation import LoopFigures
from noria.sight.top import units
from noria.sight.top.choices import loop_items, loop_table, process_table
from noria.sight.top.keys import KEYS
from noria.sight.top.lines import Line
from noria.sight.top.poller import Poller
from noria.sight.top.processes import processes
from noria.sight.top.rates import LoopRates
from noria.sight.top.screens import ChoiceScreen, LinesScreen, help_lines
from noria.sight.top.session import Session, View, reason
from noria.sight.top.tables import BAD, PLAIN, WARN, Cell, Row, Table
from noria.sight.top.views import VIEWS, Pane, Shown
from noria.sight.top.widgets.bars import KeyBar, TabBar, TitleBar
from noria.sight.top.widgets.grid import Grid

SILENT_SECONDS = 2.0  # beyond the interval: an observation that takes longer is reported


class TopApp(App[None]):
    """`noria top`.

    *connect* returns the session with a process, given its id or socket; it may raise NoriaError or
    OSError. Without a *session* the user chooses a process first.
    """

    class Call(Message):
        """A function to call in the application's thread."""

        def __init__(self, function: Callable[[], None]) -> None:
            super().__init__()
            self.function = function

    TITLE = "noria top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    Screen { background: ansi_default; color: ansi_default; }
    #filter { display: none; height: 1; border: none; padding: 0 1; background: ansi_default; }
    #filter.open { display: block; }
    ContentSwitcher { height: 1fr; }
    Grid, VerticalScroll {
        scrollbar-size-vertical: 1; scrollbar-background: ansi_default;
        scrollbar-background-hover: ansi_default; scrollbar-background-active: ansi_default;
        scrollbar-color: ansi_bright_black; scrollbar-color-hover: ansi_cyan;
        scrollbar-color-active: ansi_cyan;
    }
    Toast { background: ansi_default; border: round ansi_cyan; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            # The screen's own binding of Tab would move the focus.
            Binding(key.keys, key.action, key.explanation, show=False, priority="tab" in key.keys)
            for key in KEYS
            if key.keys and key.action
        ),
        *(Binding(str(number + 1), f"pane({number})", show=False) for number in range(len(VIEWS))),
        Binding("escape", "escape", show=False),
    ]

    def __init__(
        self,
        session: Session | None = None,
        connect: Callable[[str], Session] | None = None,
        *,
        ascii: bool = False,
    ) -> None:
        # The terminal's own colours: they suit its background, be it dark or light.
        super().__init__(ansi_color=True)
        self._session = session
        self._connect = connect
        self._poller: Poller | None = None
        self._newest = View()
        self._view = View()  # as _newest, unless the screen is paused
        self._paused = False
        self._loop_id: int | None = None  # as the user chose it
        self._ended = False
        self._flat = False
        self._ascii = ascii
        self._ended_at = ""
        self.panes = [kind(f"pane{number}") for number, kind in enumerate(VIEWS)]
        self.active = 0
        self.title_bar = TitleBar()
        self.tab_bar = TabBar([(kind.NAME, kind.SHORT_NAME) for kind in VIEWS])
        self.filter_input = Input(id="filter", placeholder="filter: words that a row must have")

    def compose(self) -> ComposeResult:
        """Return the screen."""
        yield self.title_bar
        yield self.tab_bar
        with ContentSwitcher(initial="pane0"):
            yield from self.panes
        yield self.filter_input
        yield KeyBar()

    def on_mount(self) -> None:
        """Begin to observe, or let the user choose a process."""
        self.set_interval(0.5, self._show_title)
        self.pane.grid.focus()
        if self._session is not None:
            self._observe(self._session)
        else:
            self._choose_process()

    def on_unmount(self) -> None:
        """Stop observing."""
        if self._poller is not None:
            self._poller.close()

    @property
    def pane(self) -> Pane:
        """The view that is shown."""
        return self.panes[self.active]

    # Observing.

    def _observe(self, session: Session) -> None:
        self._session = session
        self._poller = Poller(session, self._receive)
        self._poller.start()

    def _receive(self, view: View) -> None:
        """Take a new view; called in the poller's thread."""
        self._call_soon(partial(self.show_view, view))

    def _call_soon(self, function: Callable[[], None]) -> None:
        """Call *function* in the application's thread; callable from any thread."""
        self.post_message(self.Call(function))

    def on_top_app_call(self, event: Call) -> None:
        """Call the function of another thread's `_call_soon`."""
        if self.screen_stack:  # empty while the application ends
            event.function()

    def show_view(self, view: View) -> None:
        """Show what was observed, unless the screen is paused."""
        self._newest = view
        if view.ended and not self._ended_at:
            self._ended_at = time.strftime("%H:%M:%S")
        if not self._paused:
            self._view = view
        self.refresh_view()

    def refresh_view(self) -> None:
        """Show the view again, after the user has changed a choice."""
        self._show_title()
        shown = self.shown()
        if shown is None:
            return
        self.pane.show(shown)
        self.tab_bar.show(self.active, [pane.figure(shown) for pane in self.panes])
        if isinstance(self.screen, LinesScreen):
            self.screen.show()

    def shown(self) -> Shown | None:
        """Return what the views show; None until a loop was observed."""
        loop = self._chosen_loop()
        if loop is None or self._session is None:
            return None
        rates = self._view.rates.get(loop.id) or LoopRates(self._session.interval)
        history = self._session.history(loop.id)
        return Shown(self._view, loop, rates, history, self._ended, self._flat, self._ascii)

    def _chosen_loop(self) -> LoopFigures | None:
        """Return the loop that the user chose, else the first one that runs."""
        loops = self._view.observation.loops
        chosen = [loop for loop in loops if loop.id == self._loop_id]
        running = [loop for loop in loops if loop.running]
        return next(iter([*chosen, *running, *loops]), None)

    # The first line.

    def _show_title(self) -> None:
        if self._session is None:
            return
        observation = self._view.observation
        loop = self._chosen_loop()
        detail = ""
        if loop is not None:
            detail = f"{loop.model} {units.clean(loop.thread_name)}"
            if len(observation.loops) > 1:
                detail += f" ({loop.id + 1} of {len(observation.loops)})"
        title = f"{observation.pid} {units.clean(observation.command)}" if observation.pid else ""
        if self._view.observed and loop is None:
            title += ": no loop has run yet"
        self.title_bar.show(title, detail, self._state())

    def _state(self) -> Cell:
        """Return whether the process is observed, and what prevents it."""
        view, session = self._newest, self._session
        paused = "paused, " if self._paused else ""
        if view.ended:
            return f"{paused}ended at {self._ended_at}", BAD
        waited = session.seconds_since_answer if session else 0.0
        if view.observed and not view.observation.answering:
            silent = max(view.observation.silent, round(waited * 1e9))
            return f"{paused}not answering for {units.duration(silent)}", BAD
        if session and waited > session.interval + SILENT_SECONDS:
            return f"{paused}no answer for {units.duration(waited * 1e9)}", BAD
        if view.error:
            return f"{paused}{view.error}", BAD
        if self._paused:
            return "paused", WARN
        return ("live", PLAIN) if view.observed else ("connecting", PLAIN)

    # Keys.

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Return whether a key does something: on other screens, most do not."""
        if action in ("quit", "escape") or len(self.screen_stack) == 1:
            return True
        return not any(key.action.startswith(action) for key in KEYS) and action != "pane"

    def action_pane(self, position: int) -> None:
        """Show another view."""
        self.active = position % len(self.panes)
        self.query_one(ContentSwitcher).current = f"pane{self.active}"
        self.filter_input.value = self.pane.table.filter
        self._close_filter()
        self.refresh_view()

    def action_next_pane(self, step: int) -> None:
        """Show the next view, or the one before."""
        self.action_pane(self.active + step)

    def action_pause(self) -> None:
        """Hold the screen, or show the newest observation."""
        self._paused = not self._paused
        if not self._paused:
            self._view = self._newest
        self.refresh_view()

    def action_sort(self, step: int) -> None:
        """Sort by the next column."""
        self.pane.table.sort_beside(step, [column for column, _ in self.pane.grid.columns()])
        self.refresh_view()

    def action_reverse(self) -> None:
        """Sort the other way round."""
        self.pane.table.sort_by(self.pane.table.sort)
        self.refresh_view()

    def action_tree(self) -> None:
        """Show tasks as a tree, or flat."""
        self._flat = not self._flat
        self.refresh_view()

    def action_ended(self) -> None:
        """Show or hide tasks that are done and connections that are closed."""
        self._ended = not self._ended
        self.refresh_view()

    def action_help(self) -> None:
        """Show the keys."""
        table = self.pane.table
        self.push_screen(LinesScreen("help", lambda width: help_lines(table, width)))

    def action_filter(self) -> None:
        """Let the user type a filter."""
        self.filter_input.add_class("open")
        self.filter_input.value = self.pane.table.filter
        self.filter_input.focus()

    def action_escape(self) -> None:
        """Clear the filter."""
        self.filter_input.value = self.pane.table.filter = ""
        self._close_filter()
        self.refresh_view()

    def _close_filter(self) -> None:
        self.filter_input.set_class(bool(self.pane.table.filter), "open")
        self.pane.grid.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter while it is typed."""
        if self.filter_input.has_focus:
            self.pane.table.filter = event.value
            self.refresh_view()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Keep the filter."""
        self._close_filter()

    def on_tab_bar_clicked(self, event: TabBar.Clicked) -> None:
        """Show the view that was clicked."""
        self.action_pane(event.position)

    def on_grid_sorted(self, event: Grid.Sorted) -> None:
        """Show the rows in the new order."""
        self.refresh_view()

    def on_grid_chosen(self, event: Grid.Chosen) -> None:
        """Show everything about a row."""
        pane, row = self.pane, event.row
        last = [row.item]

        def lines(width: int) -> list[Line]:
            shown = self.shown()
            if shown is None:
                return []
            item = pane.item(row.key)
            if item is not None:
                last[0] = item
            return pane.detail(last[0], shown, width)

        self.push_screen(LinesScreen(f"{pane.NAME}: {pane.label(row.item)}", lines))

    # Choices.

    def action_loops(self) -> None:
        """Choose the loop."""
        if len(self._view.observation.loops) < 2:
            self.notify("This process has one loop.")
            return

        def rows(table: Table[Any]) -> list[Row[Any]]:
            return table.rows(loop_items(self._view), lambda item: item.loop.id)

        def chosen(key: Hashable) -> None:
            if isinstance(key, int):
                self._loop_id = key
            self.refresh_view()

        self.push_screen(ChoiceScreen("choose a loop", loop_table(), rows, "no loops"), chosen)

    def _choose_process(self) -> None:
        def rows(table: Table[Any]) -> list[Row[Any]]:
            return table.rows(processes(), lambda process: process.socket)

        def chosen(key: Hashable) -> None:
            if isinstance(key, str) and self._connect is not None:
                self._connect_to(key)
            else:
                self.exit()

        table = process_table()
        self.push_screen(ChoiceScreen("choose a process", table, rows, "no process"), chosen)

    def _connect_to(self, socket: str) -> None:
        assert self._connect is not None
        connect = self._connect

        def work() -> None:
            try:
                session = connect(socket)
            except (NoriaError, OSError) as error:
                self._call_soon(partial(self._failed, reason(error)))
            else:
                self._call_soon(partial(self._observe, session))

        self.run_worker(work, thread=True)

    def _failed(self, text: str) -> None:
        self.notify(text, severity="error", timeout=10)
        self._choose_process()

    def action_dump(self) -> None:
        """Have the process write its flight recording to the working directory."""
        if self._poller is None or self._session is None:
            return
        source, pid = self._session.source, self._newest.observation.pid
        path = os.path.abspath(f"noria-{pid}-{time.strftime('%Y%m%d-%H%M%S')}.noria")

        def work() -> None:
            try:
                records = source.dump(path)
            except (NoriaError, OSError) as error:
                report = partial(self.notify, reason(error), severity="error", timeout=10)
            else:
                report = partial(self.notify, f"{records:,} records written to {path}", timeout=10)
            self._call_soon(report)

        self._poller.call(work)

    def on_resize(self, event: events.Resize) -> None:
        """Show the view at the new size."""
        self.call_after_refresh(self.refresh_view)
