from enum import IntEnum
from typing import Self

class StopReason(IntEnum):
    COUNT_REACHED = 0
    WOULD_BLOCK = 1
    EOF = 2
    UNSUPPORTED = 3

class Splice:
    def __new__(cls, timeout_ms: int) -> Self: ...
    def move(self, source: int, target: int, count: int) -> tuple[int, int]: ...
    def close(self) -> None: ...
