"""How many bytes of a file the page cache holds, and in what state."""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

from noria._core.files.page_cache import cachestat, mincore_pages

PAGE = os.sysconf("SC_PAGESIZE")
REFUSED = (errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP)


class Held(NamedTuple):
    """Bytes of whole pages. `dirty` and `writeback` are None where mincore counted."""

    cached: int
    dirty: int | None
    writeback: int | None


class Counter:
    """Counts by cachestat(2); by mincore(2) from the first time on that it is refused.

    `way` is the call in use, `reason` says why it is not cachestat.
    """

    def __init__(self) -> None:
        self.way = "cachestat"
        self.reason = ""

    def check(self, fd: int) -> None:
        """Looks at a file of which pages are in the cache: an overlay's file has pages of its own,
        none, and cachestat counts those; mincore sees the pages of the file below."""
        if self.held(fd).cached == 0 and mincore_pages(fd, os.fstat(fd).st_size):
            self._fall_back("cachestat(2) does not see the pages of this file system")

    def held(self, fd: int) -> Held:
        """What the page cache holds of the file, which must be open for reading now."""
        if self.way == "cachestat":
            try:
                return Held(*(pages * PAGE for pages in cachestat(fd)))
            except OSError as error:
                if error.errno not in REFUSED:
                    raise
                name = errno.errorcode[error.errno]
                self._fall_back(f"cachestat(2) is refused ({name}); it needs Linux 6.5")
        return Held(mincore_pages(fd, os.fstat(fd).st_size) * PAGE, None, None)

    def _fall_back(self, reason: str) -> None:
        self.way, self.reason = "mincore", reason
