"""Counts the bytes of a file in the page cache, by their state."""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

from noria._core.files.page_cache import cachestat, mincore_pages

PAGE = os.sysconf("SC_PAGESIZE")
UNSUPPORTED_ERRNOS = (errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP)


class CachedBytes(NamedTuple):
    """Bytes of whole pages. `dirty` and `writeback` are None if mincore(2) counted."""

    cached: int
    dirty: int | None
    writeback: int | None


class Counter:
    """Count with cachestat(2), or with mincore(2) if cachestat is refused.

    `call` is the call in use, `reason` why it is not cachestat. Both calls are from noria._core,
    because noria has no public name for them.
    """

    def __init__(self) -> None:
        self.call = "cachestat"
        self.reason = ""

    def check(self, fd: int) -> None:
        """Use mincore if cachestat does not see the pages of this file, which are in the cache.

        On overlayfs, cachestat counts the pages of the overlay's file, which has none; mincore
        counts those of the underlying file.
        """
        if self.cached_bytes(fd).cached == 0 and mincore_pages(fd, os.fstat(fd).st_size):
            self._fall_back("cachestat(2) does not see the pages of this file system")

    def cached_bytes(self, fd: int) -> CachedBytes:
        """Count the pages of an open, readable file."""
        if self.call == "cachestat":
            try:
                return CachedBytes(*(pages * PAGE for pages in cachestat(fd)))
            except OSError as error:
                if error.errno not in UNSUPPORTED_ERRNOS:
                    raise
                name = errno.errorcode[error.errno]
                self._fall_back(f"cachestat(2) is refused ({name}); it needs Linux 6.5")
        return CachedBytes(mincore_pages(fd, os.fstat(fd).st_size) * PAGE, None, None)

    def _fall_back(self, reason: str) -> None:
        self.call, self.reason = "mincore", reason
