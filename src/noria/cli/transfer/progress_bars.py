"""Progress bars on standard error: bytes transferred, speed, and time left."""

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

from noria.transfer.progress import Outcome, ProgressReporter

NAME_COLUMNS = 28


class ProgressBars:
    """The bars of one command, in the order in which the transfers start."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            expand=True,
        )

    def new_bar(self, name: str) -> ProgressReporter:
        return ProgressBar(self._progress, name)

    def __enter__(self) -> ProgressBars:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()


class ProgressBar(ProgressReporter):
    """The bar of one file. It appears when the transfer starts."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress = progress
        self._name = shorten_name(name)
        self._task: TaskID | None = None

    def start(self, done: int, total: int | None) -> None:
        if self._task is None:
            self._task = self._progress.add_task(self._name, total=total, completed=done)
        else:
            self._progress.update(self._task, total=total, completed=done)

    def advance(self, count: int) -> None:
        if self._task is not None:
            self._progress.advance(self._task, count)

    def message(self, text: str) -> None:
        self._progress.console.print(escape(f"{self._name.strip()}: {text}"), highlight=False)

    def finish(self, outcome: Outcome) -> None:
        if self._task is None:
            self.start(0, None)
        assert self._task is not None
        if outcome.status == "failed":
            description = f"✗ {self._name}"[: NAME_COLUMNS + 2]
            self._progress.update(self._task, description=description)
        else:
            size = outcome.size or 1  # so that the bar of an empty file is full too
            self._progress.update(self._task, total=size, completed=size)
        self._progress.stop_task(self._task)


def shorten_name(name: str) -> str:
    """Return a name of NAME_COLUMNS characters. Its end is kept, as names often differ there."""
    name = "".join(c if c.isprintable() else "�" for c in name)
    if len(name) > NAME_COLUMNS:
        name = f"{name[: NAME_COLUMNS // 2 - 1]}…{name[-(NAME_COLUMNS // 2) :]}"
    return name.ljust(NAME_COLUMNS)
