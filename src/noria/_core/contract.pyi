from collections.abc import Callable
from typing import Any

SCRATCH_SIZE: int

# Kinds of Operation.
CONNECT: int
PREAD: int
PWRITE: int
FSYNC: int

class Target: ...

class Queue:
    count: int
    def __len__(self) -> int: ...

class Dispatcher: ...

class Channel(Target):
    fd: int
    def fileno(self) -> int: ...

class Operation(Target):
    fd: int
    kind: int
    cleanup: Callable[[], object] | None
    def __init__(
        self,
        kind: int,
        fd: int,
        buffer: bytes | None,
        size: int,
        offset: int,
        callback: Callable[[Any, OSError | None], object],
    ) -> None: ...
    @property
    def done(self) -> bool: ...

class Model:
    name: str
    queue: Queue
    recording: bool
    closed: bool
    inherited: bool
    creator_pid: int
    def capability(self, kind: str) -> str: ...
    def require(self, kind: str) -> None: ...
    def stats(self) -> dict[str, int]: ...
    def last_timestamps(self) -> tuple[int, int, int, int, int]: ...
    def interrupt(self) -> None: ...
    def wake_fd(self) -> int: ...
    def close(self) -> None: ...
