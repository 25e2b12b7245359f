import asyncio
from collections.abc import Coroutine
from typing import Any

class Inline:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None: ...
    def now(self, fd: int, size: int, offset: int) -> bytes | None: ...

class Descriptor:
    _fd: int
    _pending: bytearray | None
    _inline: Inline | None
    def pread(self, size: int, offset: int) -> Coroutine[Any, Any, bytes]: ...
