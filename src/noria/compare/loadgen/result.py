"""The result of a load, and the error of a wrong reply."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from noria.errors import NoriaError


class WrongEcho(NoriaError):
    """An echo differs from its message: bytes lost, changed, or of another connection."""


@dataclass(frozen=True, slots=True)
class LoadResult:
    """The result of a run. Latencies are in microseconds, and None without any echo."""

    messages: int
    seconds: float
    messages_per_second: float
    p50_us: float | None
    p99_us: float | None
    p999_us: float | None
    max_us: float | None
    served: int
    connections: int
    connected: int
    size: int
    depth: int
    idle: int
    histogram: list[tuple[float, float, int]]

    def as_dict(self) -> dict[str, object]:
        """The fields as plain values for JSON."""
        return asdict(self)
