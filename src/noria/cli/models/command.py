"""``noria models``: the I/O models in tables, and a page for each."""

import json as jsonlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from noria.cli.param_types import unknown_choice

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

    from noria.models import ModelInfo

SYMBOLS = {"native": "●", "emulated": "○", "none": "·"}
STYLES = {"native": "green", "emulated": "yellow", "none": "dim"}
COLUMN_HEADERS = {  # short enough for a column of single symbols
    "connections": "many\nconns",
    "receive": "re-\nceive",
    "connect": "con-\nnect",
    "readiness": "ready",
    "asyncio": "async\nio",
}
PAGES_ONLY = ("auto", "simulated")  # these have a page but no row in the tables


@click.command()
@click.argument("name", required=False)
@click.option("--json", "json", is_flag=True, help="Print JSON.")
def models(name: str | None, json: bool) -> None:
    """List the I/O models and whether they work on this machine.

    With NAME, explain one model, with a drawing of what waits and what copies. 'auto' and
    'simulated' have a page too.

    \b
    Examples:
      noria models
      noria models epoll
      noria models --json
    """
    from noria.models import MODELS, choose

    names = (*MODELS, *PAGES_ONLY)
    if name is not None and name not in names:
        raise click.UsageError(unknown_choice("model", name, names))
    if json:
        selected = MODELS if name is None else (choose()[0] if name == "auto" else name,)
        click.echo(jsonlib.dumps([_record(each) for each in selected], indent=2))
        return
    from rich.console import Console

    console = Console(highlight=False)
    if name is None:
        _print_overview(console, MODELS)
    else:
        _print_page(console, name)


def _record(name: str) -> dict[str, Any]:
    """Return the JSON object of a model."""
    from noria.models import availability, info

    model = info(name)
    available, reason = availability(name)
    return {
        "name": model.name,
        "available": available,
        "reason": reason,
        "trigger": model.trigger,
        "limit": model.limit,
        "synchronous": model.synchronous,
        "capabilities": dict(model.capabilities),
    }


def _print_overview(console: "Console", names: Iterable[str]) -> None:
    """Print three tables, narrow enough for 80 columns."""
    from noria.models import availability, info

    infos = [info(name) for name in names]
    available = {model.name: availability(model.name) for model in infos}
    console.print(_phases_table(infos, available))
    console.print(_triggers_table(infos))
    console.print(_capabilities_table(infos))
    for name, (works, reason) in available.items():
        if not works:
            console.print(
                _line("red", f"{name} is not available: ", reason.removeprefix(f"{name} is "))
            )
    console.print(_choice())
    console.print(_line("dim", "'noria models NAME' explains one model, with a drawing.", ""))


def _choice() -> "RenderableType":
    """Return a line with the model that ``auto`` chooses here."""
    from noria.errors import ModelUnavailable
    from noria.models import choose

    try:
        name, why = choose()
    except ModelUnavailable as error:
        return _line("red", "auto finds no model here: ", str(error.args[-1]))
    return _line("bold", f"auto chooses {name} here: ", why)


def _line(style: str, head: str, rest: str) -> "RenderableType":
    from rich.text import Text

    return Text.assemble((head, style), rest)


def _table(title: str, space: int = 1) -> "Table":
    from rich import box
    from rich.table import Table

    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, space, 0, 0),
        pad_edge=False,
        header_style="bold cyan",
    )


def _phases_table(infos: "list[ModelInfo]", available: dict[str, tuple[bool, str]]) -> "Table":
    """Return what waits, what copies, and how the program is notified."""
    table = _table("What waits, and what copies")
    table.add_column("model", no_wrap=True)
    table.add_column("here", no_wrap=True)
    table.add_column("waits for data", ratio=3)
    table.add_column("copies data", ratio=3)
    table.add_column("notified by", ratio=3)
    for model in infos:
        works = "[green]yes[/]" if available[model.name][0] else "[red]no[/]"
        table.add_row(model.name, works, model.waits, model.copies, model.learns)
    return table


def _triggers_table(infos: "list[ModelInfo]") -> "Table":
    """Return trigger, kind of I/O, and limit."""
    table = _table("How it notifies, and how many connections it serves")
    table.add_column("model", no_wrap=True)
    table.add_column("trigger", no_wrap=True)
    table.add_column("I/O is", no_wrap=True)
    table.add_column("connections at once")
    for model in infos:
        kind = "synchronous" if model.synchronous else "[green]asynchronous[/]"
        table.add_row(model.name, model.trigger, kind, model.limit)
    return table


def _capabilities_table(infos: "list[ModelInfo]") -> "Table":
    """Return a symbol for each capability."""
    from noria.models import CAPABILITIES

    table = _table("Capabilities", space=0)
    table.caption = "   ".join(f"{_mark(kind)} {kind}" for kind in SYMBOLS)
    table.caption_justify = "left"
    table.caption_style = ""
    table.add_column("model", no_wrap=True, vertical="bottom")
    for kind in CAPABILITIES:
        table.add_column(COLUMN_HEADERS.get(kind, kind), no_wrap=True, justify="center")
    for model in infos:
        marks = [_mark(model.capabilities[kind]) for kind in CAPABILITIES]
        table.add_row(model.name, *marks)
    return table


def _mark(can: str) -> str:
    return f"[{STYLES[can]}]{SYMBOLS[can]}[/]"


def _print_page(console: "Console", name: str) -> None:
    """Print the page of a model: facts, drawing, text."""
    from rich.padding import Padding
    from rich.text import Text

    from noria.cli.models import drawings
    from noria.cli.models.pages import PAGES
    from noria.models import PREFERENCE, availability, info

    page = PAGES[name]
    width = min(console.width, drawings.WIDTH)
    if name == "auto":
        tried = [(each, availability(each)[0]) for each in PREFERENCE]
        console.print(Text("auto: the fastest model that works here", "bold"))
        console.print(_choice())
        picture, legend = drawings.auto(tried), ""
    else:
        model = info(name)
        console.print(Text.assemble((name, "bold"), f": {model.summary}"), width=width)
        console.print(_facts_grid(model, *availability(name)), width=width)
        picture = drawings.drawing(name)
        legend = "" if name == "simulated" else drawings.LEGEND
    console.print()
    # If the terminal is too narrow, crop the drawing: with folded lines it would be unreadable.
    console.print(_coloured(picture), no_wrap=True, overflow="crop", crop=True)
    if legend:
        console.print(Text(f"\n{legend}", "dim"))
    for heading, text in (
        ("How it works", page.how),
        ("System calls", page.calls),
        ("When to use it", page.use),
        ("What it cannot do", page.cannot),
        ("Source", page.source),
    ):
        if text:
            console.print(Text(f"\n{heading}", "bold cyan"))
            body = text if isinstance(text, str) else _calls_grid(text)
            console.print(Padding(body, (0, 0, 0, 2)), width=width, markup=False)


def _facts_grid(model: "ModelInfo", works: bool, reason: str) -> "RenderableType":
    """Return the model's rows of the tables, as a list."""
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    grid.add_row("here", "[green]available[/]" if works else f"[red]not available:[/] {reason}")
    grid.add_row("waits", model.waits)
    grid.add_row("copies", model.copies)
    grid.add_row("notified by", model.learns)
    kind = "synchronous" if model.synchronous else "asynchronous"
    grid.add_row("kind", f"{kind}; trigger: {model.trigger}; connections at once: {model.limit}")
    for can in SYMBOLS:
        kinds = [kind for kind, value in model.capabilities.items() if value == can]
        if kinds:
            grid.add_row(can, f"[{STYLES[can]}]{', '.join(kinds)}[/]")
    return grid


def _calls_grid(calls: tuple[tuple[str, str], ...]) -> "RenderableType":
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="green", no_wrap=True)
    grid.add_column()
    for call, does in calls:
        grid.add_row(call, does)
    return grid


def _coloured(picture: str) -> "RenderableType":
    from rich.text import Text

    text = Text(picture)
    text.highlight_regex("[░▒]+", "blue")
    text.highlight_regex("█+", "green")
    text.highlight_regex("[▼▲│▶◀]", "yellow")
    return text
