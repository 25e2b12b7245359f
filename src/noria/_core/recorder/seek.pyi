from collections.abc import Iterable
from typing import Any

def seek(
    header: dict[str, Any], parts: Iterable[bytes | memoryview], time: int
) -> tuple[int, int, dict[str, Any]]: ...
