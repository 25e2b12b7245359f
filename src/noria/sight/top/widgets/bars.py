"""The lines at the top and bottom of the screen."""

from __future__ import annotations

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from noria.sight.top import units
from noria.sight.top.keys import shown_keys
from noria.sight.top.tables import ACCENT, DIM, PLAIN, STRONG, Cell
from noria.sight.top.widgets.styles import rich_style

BAR = Style(reverse=True)


class TitleBar(Widget):
    """The observed process at left, and the state of observing it at right."""

    DEFAULT_CSS = "TitleBar { height: 1; }"

    def __init__(self) -> None:
        super().__init__()
        self.title = ""
        self.detail = ""  # shown if there is room
        self.state: Cell = "", PLAIN

    def show(self, title: str, detail: str, state: Cell) -> None:
        """Replace the texts."""
        if (title, detail, state) != (self.title, self.detail, self.state):
            self.title, self.detail, self.state = title, detail, state
            self.refresh()

    def render_line(self, y: int) -> Strip:
        """Return the line."""
        width = self.size.width
        name, (state, style) = " noria top ", self.state
        state = f" {units.clipped(state, max(width - 2, 0))} "
        room = max(width - len(name) - len(state), 0)
        title = units.clipped(f" {self.title}", room)
        detail = f"{self.detail}  " if self.detail else ""
        if len(title) + len(detail) + 2 > room:
            detail = ""
        text = title.ljust(max(room - len(detail), 0)) + detail
        return Strip(
            [
                Segment(name, BAR + Style(bold=True)),
                Segment(text, BAR),
                Segment(state, BAR + rich_style(style, self.app.no_color) + Style(bold=True)),
            ]
        ).adjust_cell_length(width, BAR)


class TabBar(Widget):
    """The views with their keys and a figure of each; a click chooses one."""

    DEFAULT_CSS = "TabBar { height: 1; }"

    class Clicked(Message):
        """A view was chosen."""

        def __init__(self, position: int) -> None:
            super().__init__()
            self.position = position

    def __init__(self, names: list[tuple[str, str]]) -> None:
        """*names* are pairs of a long and a short name."""
        super().__init__()
        self.names = names
        self.figures: list[Cell] = [("", PLAIN)] * len(names)
        self.active = 0

    def show(self, active: int, figures: list[Cell]) -> None:
        """Show other figures, or another view as the active one."""
        if (active, figures) != (self.active, self.figures):
            self.active, self.figures = active, figures
            self.refresh()

    def _tabs(self) -> list[list[Cell]]:
        """Return the parts of each tab, with the longest names that fit."""
        for which, figures in ((0, True), (1, True), (1, False)):
            tabs = [
                [(f" {position + 1} ", DIM), (names[which], PLAIN)]
                + ([(f" {figure[0]}", figure[1])] if figures and figure[0] else [])
                + [(" ", PLAIN)]
                for position, (names, figure) in enumerate(
                    zip(self.names, self.figures, strict=True)
                )
            ]
            if sum(len(text) for tab in tabs for text, _ in tab) <= self.size.width:
                return tabs
        return [
            [(f" {position + 1} ", PLAIN)]
            + ([(f"{self.names[position][1]} ", PLAIN)] if position == self.active else [])
            for position in range(len(self.names))
        ]

    def render_line(self, y: int) -> Strip:
        """Return the line."""
        segments = []
        for position, tab in enumerate(self._tabs()):
            if position == self.active:
                text = "".join(text for text, _ in tab)
                segments.append(Segment(text, Style(bold=True, reverse=True)))
            else:
                for text, style in tab:
                    segments.append(Segment(text, rich_style(style, self.app.no_color)))
        return Strip(segments).adjust_cell_length(self.size.width)

    def on_click(self, event: events.Click) -> None:
        """Report the tab that was clicked."""
        left = 0
        for position, tab in enumerate(self._tabs()):
            left += sum(len(text) for text, _ in tab)
            if event.x < left:
                self.post_message(self.Clicked(position))
                return


class KeyBar(Widget):
    """The keys; a click does what the key does."""

    DEFAULT_CSS = "KeyBar { height: 1; }"

    def render_line(self, y: int) -> Strip:
        """Return the line."""
        segments = []
        for key in shown_keys(self.size.width):
            segments.append(
                Segment(f" {key.shown}", rich_style(f"{ACCENT} {STRONG}", self.app.no_color))
            )
            segments.append(Segment(f" {key.name} ", rich_style(DIM, self.app.no_color)))
        return Strip(segments).adjust_cell_length(self.size.width)

    async def on_click(self, event: events.Click) -> None:
        """Do what the key under the pointer does."""
        left = 0
        for key in shown_keys(self.size.width):
            left += len(f"{key.shown} {key.name}") + 2
            if event.x < left:
                if key.action:
                    await self.app.run_action(key.action)
                return
