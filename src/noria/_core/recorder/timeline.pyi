from collections.abc import Iterable
from typing import Any, final

KINDS: tuple[str, ...]

@final
class Timeline:
    begin: int
    end: int
    def __init__(self, header: dict[str, Any], parts: Iterable[bytes | memoryview]) -> None: ...
    def lanes(
        self,
        begin: int = ...,
        end: int = ...,
        buckets: int = ...,
        *,
        longest: int = ...,
        tasks: int = ...,
        connections: int = ...,
        spans: int = ...,
    ) -> dict[str, Any]: ...
