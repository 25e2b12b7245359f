"""``noria models``: the models on this machine in tables, and a page for each."""

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
HEADS = {  # what fits above a column of single symbols
    "connections": "many\nconns",
    "receive": "re-\nceive",
    "connect": "con-\nnect",
    "readiness": "ready",
    "asyncio": "async\nio",
}
NAMED = ("auto", "simulated")  # these have a page but no row


@click.command()
@click.argument("name", required=False)
@click.option("--json", "json", is_flag=True, help="The facts as JSON, for scripts.")
def models(name: str | None, json: bool) -> None:
    """Show the I/O models, and which of them work here.

    With NAME: one model explained on a page, with a drawing of who waits and who copies. 'auto' and
    'simulated' have a page too.

    \b
    Examples:
      noria models
      noria models epoll
      noria models --json
    """
    from noria.models import MODELS, choose

    names = (*MODELS, *NAMED)
    if name is not None and name not in names:
        raise click.UsageError(unknown_choice("model", name, names))
    if json:
        wanted = MODELS if name is None else (choose()[0] if name == "auto" else name,)
        click.echo(jsonlib.dumps([_record(each) for each in wanted], indent=2))
        return
    from rich.console import Console

    console = Console(highlight=False)
    if name is None:
        _overview(console, MODELS)
    else:
        _page(console, name)


def _record(name: str) -> dict[str, Any]:
    """The JSON object of a model."""
    from noria.models import availability, info

    about = info(name)
    available, reason = availability(name)
    return {
        "name": about.name,
        "available": available,
        "reason": reason,
        "trigger": about.trigger,
        "limit": about.limit,
        "synchronous": about.synchronous,
        "capabilities": dict(about.capabilities),
    }


def _overview(console: "Console", names: Iterable[str]) -> None:
    """Three narrow tables, one question each: they fit 80 columns."""
    from noria.models import availability, info

    known = [info(name) for name in names]
    here = {about.name: availability(about.name) for about in known}
    console.print(_phases(known, here))
    console.print(_kinds(known))
    console.print(_abilities(known))
    for name, (works, reason) in here.items():
        if not works:
            console.print(
                _line("red", f"{name} is not available: ", reason.removeprefix(f"{name} is "))
            )
    console.print(_choice())
    console.print(_line("dim", "'noria models NAME' explains one, with a drawing.", ""))


def _choice() -> "RenderableType":
    """What ``auto`` takes here."""
    from noria.errors import ModelUnavailable
    from noria.models import choose

    try:
        name, why = choose()
    except ModelUnavailable as error:
        return _line("red", "auto finds no model here: ", str(error.args[-1]))
    return _line("bold", f"auto takes {name} here: ", why)


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


def _phases(known: "list[ModelInfo]", here: dict[str, tuple[bool, str]]) -> "Table":
    """Who waits, who copies, and how the program learns of events."""
    table = _table("Who waits, and who copies")
    table.add_column("model", no_wrap=True)
    table.add_column("here", no_wrap=True)
    table.add_column("waits for data", ratio=3)
    table.add_column("copies data", ratio=3)
    table.add_column("learns by", ratio=3)
    for about in known:
        works = "[green]yes[/]" if here[about.name][0] else "[red]no[/]"
        table.add_row(about.name, works, about.waits, about.copies, about.learns)
    return table


def _kinds(known: "list[ModelInfo]") -> "Table":
    """Trigger, limit, synchronous or not."""
    table = _table("How it tells, and how many it serves")
    table.add_column("model", no_wrap=True)
    table.add_column("trigger", no_wrap=True)
    table.add_column("I/O is", no_wrap=True)
    table.add_column("connections at once")
    for about in known:
        kind = "synchronous" if about.synchronous else "[green]asynchronous[/]"
        table.add_row(about.name, about.trigger, kind, about.limit)
    return table


def _abilities(known: "list[ModelInfo]") -> "Table":
    """A symbol for each capability."""
    from noria.models import CAPABILITIES

    table = _table("What it can do", space=0)
    table.caption = "   ".join(f"{_mark(kind)} {kind}" for kind in SYMBOLS)
    table.caption_justify = "left"
    table.caption_style = ""
    table.add_column("model", no_wrap=True, vertical="bottom")
    for kind in CAPABILITIES:
        table.add_column(HEADS.get(kind, kind), no_wrap=True, justify="center")
    for about in known:
        marks = [_mark(about.capabilities[kind]) for kind in CAPABILITIES]
        table.add_row(about.name, *marks)
    return table


def _mark(can: str) -> str:
    return f"[{STYLES[can]}]{SYMBOLS[can]}[/]"


def _page(console: "Console", name: str) -> None:
    """One model: facts, drawing, words."""
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
        about = info(name)
        console.print(Text.assemble((name, "bold"), f": {about.summary}"), width=width)
        console.print(_facts(about, *availability(name)), width=width)
        picture = drawings.drawing(name)
        legend = "" if name == "simulated" else drawings.LEGEND
    console.print()
    # Wider than the terminal it is cut, not folded: folded lanes cannot be read.
    console.print(_coloured(picture), no_wrap=True, overflow="crop", crop=True)
    if legend:
        console.print(Text(f"\n{legend}", "dim"))
    for head, words in (
        ("How it works", page.how),
        ("System calls", page.calls),
        ("When to use it", page.use),
        ("What it cannot do", page.cannot),
        ("Source", page.source),
    ):
        if words:
            console.print(Text(f"\n{head}", "bold cyan"))
            body = words if isinstance(words, str) else _calls(words)
            console.print(Padding(body, (0, 0, 0, 2)), width=width, markup=False)


def _facts(about: "ModelInfo", works: bool, reason: str) -> "RenderableType":
    """The row of the overview, as a list."""
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    grid.add_row("here", "[green]available[/]" if works else f"[red]not available:[/] {reason}")
    grid.add_row("waits", about.waits)
    grid.add_row("copies", about.copies)
    grid.add_row("learns by", about.learns)
    kind = "synchronous" if about.synchronous else "asynchronous"
    grid.add_row("kind", f"{kind}; trigger: {about.trigger}; connections at once: {about.limit}")
    for can in SYMBOLS:
        kinds = [kind for kind, value in about.capabilities.items() if value == can]
        if kinds:
            grid.add_row(can, f"[{STYLES[can]}]{', '.join(kinds)}[/]")
    return grid


def _calls(calls: tuple[tuple[str, str], ...]) -> "RenderableType":
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
