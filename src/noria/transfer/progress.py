"""How a transfer is reported: its progress, and its outcome."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class Outcome:
    """How one transfer ended: `status` is "done", "unchanged" (it existed) or "failed"."""

    name: str
    url: str
    status: str = "done"
    size: int = 0  # bytes of the whole file
    sent: int = 0  # bytes that crossed the network in this run
    sha256: str = ""
    verified: bool = False  # the SHA-256 was compared with the other side's
    seconds: float = 0.0
    error: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class ProgressReporter:
    """Reports the progress of one file. This base class reports nothing."""

    def start(self, done: int, total: int | None) -> None:
        """`done` bytes of `total` are transferred; called again at each restart."""

    def advance(self, count: int) -> None:
        """`count` more bytes are transferred."""

    def message(self, text: str) -> None:
        """Report a warning, or an attempt that failed and will be repeated."""

    def finish(self, outcome: Outcome) -> None:
        """The transfer ended, with success or not."""
