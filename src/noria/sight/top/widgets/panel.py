"""A widget that shows lines of styled text."""

from __future__ import annotations

from rich.segment import Segment
from textual.strip import Strip
from textual.widget import Widget

from noria.sight.top.lines import Line, cropped
from noria.sight.top.widgets.styles import rich_style


class Panel(Widget):
    """Lines; its height is their number."""

    DEFAULT_CSS = "Panel { height: auto; width: 1fr; }"

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[Line] = []

    def show(self, lines: list[Line]) -> None:
        """Replace the lines."""
        if lines != self.lines:
            grown = len(lines) != len(self.lines)
            self.lines = lines
            self.refresh(layout=grown)

    def get_content_height(self, container: object, viewport: object, width: int) -> int:
        """Return the number of lines."""
        return len(self.lines)

    def render_line(self, y: int) -> Strip:
        """Return one line."""
        width = self.size.width
        if y >= len(self.lines):
            return Strip.blank(width)
        return line_strip(self.lines[y], width, self.app.no_color)


def line_strip(line: Line, width: int, no_color: bool) -> Strip:
    """Return a line as textual draws it, cut and padded to *width*."""
    segments = [Segment(text, rich_style(style, no_color)) for text, style in cropped(line, width)]
    return Strip(segments).adjust_cell_length(width)
