"""Limits of what can be stored: the quota of the served directory, and the free disk space."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import struct
import threading
import time
from collections.abc import Iterator

from noria.fileserver.root import Root
from noria.fileserver.tree_walk import is_directory, walk_directories
from noria.http.messages import HTTPException

# Seconds after which the files are counted again, because other programs change them too.
RECOUNT_INTERVAL = 60.0
# Bytes used, number of changes of that, time of the last count.
COUNTERS = struct.Struct("=qqd")

# Record locks on bytes of the shared memory, fcntl(2), which end with their process: changing the
# counters, having an upload under way, counting.
CHANGING, UPLOADING, COUNTING = range(3)


class Quota:
    """Limits the total size of the files below the root to `limit` bytes; None is no limit.

    The files are counted when the total is first needed, and again from time to time. In between,
    the total follows the uploads of all workers. `shared_fd` is a memfd for the counters, which
    forked workers share; -1 if there is one process. For worker threads.
    """

    def __init__(self, root: Root, limit: int | None, shared_fd: int = -1):
        self.root = root
        self.limit = limit
        self._fd = -1
        self._reserved = 0  # bytes reserved by uploads of this process
        # Record locks belong to the process, so its threads need these locks as well.
        self._lock = threading.Lock()
        self._counting = threading.Lock()
        if limit is not None:
            self._fd = os.memfd_create("noria-quota") if shared_fd < 0 else os.dup(shared_fd)
            if os.fstat(self._fd).st_size < COUNTERS.size:
                os.ftruncate(self._fd, COUNTERS.size)
            self._memory = mmap.mmap(self._fd, COUNTERS.size)

    def close(self) -> None:
        """Close the counters."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._memory.close()
            os.close(fd)

    def reserve(self, size: int) -> None:
        """Reserve bytes for an upload. Raises HTTPException 507 if that exceeds the quota."""
        if self.limit is None:
            return
        self.count()
        with self._changing():
            used, changes, counted = self._counters()
            if used + size > self.limit:
                raise HTTPException(
                    507, f"The quota of {self.limit} bytes does not allow {size} more bytes."
                )
            COUNTERS.pack_into(self._memory, 0, used + size, changes + 1, counted)
            self._add_reserved(size)

    def release(self, reserved: int, freed: int = 0) -> None:
        """End an upload that had `reserved` bytes; `freed` bytes are no longer used."""
        if self.limit is None:
            return
        with self._changing():
            used, changes, counted = self._counters()
            COUNTERS.pack_into(self._memory, 0, used - freed, changes + 1, counted)
            self._add_reserved(-reserved)

    def check(self, size: int) -> None:
        """Raise HTTPException 507 if `size` more bytes exceed the quota now."""
        self.reserve(size)
        self.release(size, size)

    @property
    def used(self) -> int:
        """Bytes used, as of the last count and the uploads since."""
        return self._counters()[0] if self.limit is not None else 0

    def count(self) -> None:
        """Count the files if that is due.

        A thread waits for another one's count only if there has been none yet.
        """
        if self.limit is None or not self._is_due():
            return
        with contextlib.ExitStack() as stack:
            first = not self._counters()[2]
            if not self._counting.acquire(blocking=first):
                return
            stack.callback(self._counting.release)
            if not self._lock_record(COUNTING, fcntl.LOCK_EX, wait=first):
                return
            stack.callback(self._lock_record, COUNTING, fcntl.LOCK_UN)
            with self._changing():
                if not self._is_due() or self._others_have_uploads():
                    return
                changes = self._counters()[1]
            counted_bytes = self._sum_sizes()
            with self._changing():
                used, now, counted = self._counters()
                if now == changes or not counted:
                    used = counted_bytes
                COUNTERS.pack_into(self._memory, 0, used, now, time.monotonic())

    def _counters(self) -> tuple[int, int, float]:
        used, changes, counted = COUNTERS.unpack_from(self._memory)
        return used, changes, counted

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """Exclusive access to the counters, across threads and processes."""
        with self._lock:
            self._lock_record(CHANGING, fcntl.LOCK_EX)
            try:
                yield
            finally:
                self._lock_record(CHANGING, fcntl.LOCK_UN)

    def _add_reserved(self, size: int) -> None:
        """Show all processes whether this one has uploads: nothing is counted meanwhile."""
        before, self._reserved = self._reserved, self._reserved + size
        if self._reserved and not before:
            self._lock_record(UPLOADING, fcntl.LOCK_SH)
        elif before and not self._reserved:
            self._lock_record(UPLOADING, fcntl.LOCK_UN)

    def _is_due(self) -> bool:
        counted = self._counters()[2]
        return not self._reserved and not (
            counted and time.monotonic() - counted < RECOUNT_INTERVAL
        )

    def _others_have_uploads(self) -> bool:
        """Whether another process has uploads.

        The caller holds CHANGING, so that the lock taken here does not replace the shared lock of
        this process.
        """
        if not self._lock_record(UPLOADING, fcntl.LOCK_EX, wait=False):
            return True
        self._lock_record(UPLOADING, fcntl.LOCK_UN)
        return False

    def _lock_record(self, which: int, how: int, *, wait: bool = True) -> bool:
        """fcntl(2) F_SETLK or F_SETLKW; return whether the lock was acquired."""
        while True:
            try:
                fcntl.lockf(self._fd, how if wait else how | fcntl.LOCK_NB, 1, which)
                return True
            except (BlockingIOError, PermissionError):  # EAGAIN or EACCES, fcntl(2)
                return False
            except OSError as error:
                if error.errno != errno.EDEADLK:
                    raise
                # The kernel reports a deadlock between processes, though different threads wait.
                # There is none: retry.
                time.sleep(0.001)

    def _sum_sizes(self) -> int:
        used = 0
        for _, entries in walk_directories(self.root.fd):
            for entry in entries:
                if is_directory(entry):
                    continue
                with contextlib.suppress(FileNotFoundError, PermissionError):
                    used += entry.stat(follow_symlinks=False).st_size
        return used


def check_disk(fd: int, size: int, floor: int) -> None:
    """Raise HTTPException 507 if `size` more bytes leave the disk of `fd` less than `floor`."""
    disk = os.fstatvfs(fd)
    if disk.f_bavail * disk.f_frsize - size < floor:
        raise HTTPException(507, f"The disk is almost full: the server keeps {floor} bytes free.")
