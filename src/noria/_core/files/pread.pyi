from collections.abc import Coroutine
from typing import Any

from noria._core.files.cached_read import CachedReader

class PreadFile:
    _fd: int
    _write_buf: bytearray | None
    _cached_reader: CachedReader | None
    def pread(self, size: int, offset: int) -> Coroutine[Any, Any, bytes]: ...
