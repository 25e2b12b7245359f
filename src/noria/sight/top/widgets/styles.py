"""How the styles of cells look: the terminal's own colours, or none."""

from __future__ import annotations

from functools import cache

from rich.style import Style

from noria.sight.top.tables import ACCENT, BAD, DIM, GOOD, PLAIN, STRONG, WARN

_COLOURS = {
    PLAIN: Style(),
    DIM: Style(dim=True),
    GOOD: Style(color="green"),
    WARN: Style(color="yellow"),
    BAD: Style(color="red", bold=True),
    ACCENT: Style(color="cyan"),
    STRONG: Style(bold=True),
}
_WITHOUT_COLOURS = {
    PLAIN: Style(),
    DIM: Style(dim=True),
    GOOD: Style(),
    WARN: Style(bold=True),
    BAD: Style(bold=True, underline=True),
    ACCENT: Style(),
    STRONG: Style(bold=True),
}
CURSOR = Style(reverse=True)
HEADER = Style(bold=True, underline=True)


@cache
def rich_style(names: str, no_color: bool = False) -> Style:
    """Return the style for one or several names, separated by spaces."""
    styles = _WITHOUT_COLOURS if no_color else _COLOURS
    return Style.combine(styles.get(name, Style()) for name in names.split() or [PLAIN])
