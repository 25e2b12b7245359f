import os
from collections.abc import Callable
from dataclasses import dataclass

from noria.compare.loadgen.connections import open_idle as open_idle
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
