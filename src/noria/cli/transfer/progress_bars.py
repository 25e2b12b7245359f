"""Progress bars on standard error: how far, how fast, how long still."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from noria.transfer.session import Bar, Outcome

WIDTH = 28  # columns of a name


class Bars:
    """All bars of a command, in the order in which the transfers begin."""

    def __init__(self) -> None:
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            expand=True,
        )

    def bar(self, name: str) -> Bar:
        return Line(self.progress, name)

    def __enter__(self) -> Bars:
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.progress.stop()


class Line(Bar):
    """The bar of one file; it is there once the file's transfer has begun."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress = progress
        self._name = short(name)
        self._task: TaskID | None = None

    def start(self, done: int, total: int | None) -> None:
        if self._task is None:
            self._task = self._progress.add_task(self._name, total=total, completed=done)
        else:
            self._progress.update(self._task, total=total, completed=done)

    def advance(self, count: int) -> None:
        if self._task is not None:
            self._progress.advance(self._task, count)

    def note(self, text: str) -> None:
        self._progress.console.print(escape(f"{self._name.strip()}: {text}"), highlight=False)

    def end(self, outcome: Outcome) -> None:
        if self._task is None:
            self.start(0, None)
        assert self._task is not None
        if outcome.status == "failed":
            self._progress.update(self._task, description=f"✗ {self._name}"[: WIDTH + 2])
        else:
            size = outcome.size or 1  # an empty file is done too
            self._progress.update(self._task, total=size, completed=size)
        self._progress.stop_task(self._task)


def short(name: str) -> str:
    """A name in a column's width, its end kept: that is where names differ."""
    name = "".join(c if c.isprintable() else "�" for c in name)
    if len(name) > WIDTH:
        name = f"{name[: WIDTH // 2 - 1]}…{name[-(WIDTH // 2) :]}"
    return name.ljust(WIDTH)
