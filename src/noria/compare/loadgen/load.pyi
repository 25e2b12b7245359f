import os
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from noria.errors import NoriaError

class WrongEcho(NoriaError): ...

@dataclass(frozen=True, slots=True)
class LoadResult:
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
    def as_dict(self) -> dict[str, object]: ...

class IdleConnections:
    def __init__(
        self, host: str, port: int, n: int, *, unix: str | os.PathLike[str] | None = None
    ) -> None: ...
    def __len__(self) -> int: ...
    def ended(self) -> int: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None: ...

def open_idle(
    host: str, port: int, n: int, *, unix: str | os.PathLike[str] | None = None
) -> IdleConnections: ...
def run(
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    unix: str | os.PathLike[str] | None = None,
    connections: int,
    size: int,
    depth: int = 1,
    seconds: float,
    warmup: float = 0.1,
    verify: bool = True,
    idle: int = 0,
    at_start: Callable[[], object] | None = None,
    at_end: Callable[[], object] | None = None,
) -> LoadResult: ...
