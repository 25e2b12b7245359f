from enum import IntEnum

class Why(IntEnum):
    ENOUGH = 0
    WAITS = 1
    ENDED = 2
    REFUSED = 3

class Splice:
    def __init__(self, patience: int) -> None: ...
    def move(self, source: int, target: int, most: int) -> tuple[int, int]: ...
    def close(self) -> None: ...
