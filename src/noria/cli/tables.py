"""Tables of the commands, laid out by rich."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from noria.cli.standard_output import output_width, print_line

if TYPE_CHECKING:
    from rich.table import Table


def table(*headers: str, numbers: tuple[str, ...] = ()) -> Table:
    """Return a table with these columns; `numbers` are at the right."""
    from rich import box
    from rich.table import Table

    made = Table(
        box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold cyan"
    )
    for header in headers:
        right = header in numbers
        made.add_column(
            header,
            justify="right" if right else "left",
            no_wrap=right,
            overflow="ellipsis" if right else "fold",
        )
    return made


def print_table(made: Table) -> None:
    """Print a table in the width of standard output."""
    from rich.console import Console

    console = Console(highlight=False, width=output_width(), file=sys.stdout)
    with console.capture() as captured:
        console.print(made)
    lines = [line.rstrip() for line in captured.get().splitlines()]
    print_line("\n".join(lines).strip("\n"))
