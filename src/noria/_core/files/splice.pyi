from enum import IntEnum

class StopReason(IntEnum):
    COUNT_REACHED = 0
    WOULD_BLOCK = 1
    EOF = 2
    UNSUPPORTED = 3

class Splice:
    def __init__(self, timeout_ms: int) -> None: ...
    def move(self, source: int, target: int, count: int) -> tuple[int, int]: ...
    def close(self) -> None: ...
