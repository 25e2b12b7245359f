import os
from collections.abc import Callable
from types import TracebackType
from typing import Self

from noria.compare.loadgen.connections import open_idle as open_idle
from noria.compare.loadgen.result import LoadResult as LoadResult
from noria.compare.loadgen.result import WrongEcho as WrongEcho

class OpenLoad:
    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        unix: str | os.PathLike[str] | None = None,
        connections: int,
        size: int = 1,
        depth: int = 1,
        verify: bool = True,
        idle: int = 0,
        request: bytes | None = None,
        expected: bytes = b"",
        reply_size: int = 0,
    ) -> None: ...
    def run(
        self,
        seconds: float,
        warmup: float = 0.1,
        *,
        at_start: Callable[[], object] | None = None,
        at_end: Callable[[], object] | None = None,
    ) -> LoadResult: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None: ...

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
