"""How much may still be stored: the quota of the served directory, and the floor of the disk."""

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
from noria.fileserver.tree_walk import directories, is_directory
from noria.http.messages import HTTPException

COUNT_AGAIN = 60.0  # seconds after which the files are counted again: others change them too
NUMBERS = struct.Struct("=qqd")  # bytes used, changes of that so far, when they were counted

# Locks of a process on bytes of the shared memory, fcntl(2): they end with it.
CHANGING, UPLOADING, WALKING = range(3)


class Quota:
    """The files beneath the root may have `limit` bytes together; None is no limit.

    They are counted by a walk when first needed, and kept up with from then on; from time to time
    they are counted again. Called from threads. `shared` is a memfd in which several processes,
    forked with it, keep the numbers; -1 keeps them here.
    """

    def __init__(self, root: Root, limit: int | None, shared: int = -1):
        self.root = root
        self.limit = limit
        self._fd = -1
        self._held = 0  # bytes used by uploads that are under way in this process
        self._lock = threading.Lock()  # of the numbers, and of the locks on them: these are
        self._walking = threading.Lock()  # the process's, whichever thread has them
        if limit is not None:
            self._fd = os.memfd_create("noria-quota") if shared < 0 else os.dup(shared)
            if os.fstat(self._fd).st_size < NUMBERS.size:
                os.ftruncate(self._fd, NUMBERS.size)
            self._memory = mmap.mmap(self._fd, NUMBERS.size)

    def close(self) -> None:
        """Counts no more."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._memory.close()
            os.close(fd)

    def take(self, size: int) -> None:
        """Bytes of an upload under way. Raises HTTPException 507 if there is no room for them."""
        if self.limit is None:
            return
        self.count()
        with self._changing():
            used, changes, counted = self._numbers()
            if used + size > self.limit:
                raise HTTPException(
                    507, f"The quota of {self.limit} bytes does not allow {size} bytes more."
                )
            NUMBERS.pack_into(self._memory, 0, used + size, changes + 1, counted)
            self._hold(size)

    def end(self, held: int, gone: int = 0) -> None:
        """An upload that held so much is over; `gone` bytes of those used are free again."""
        if self.limit is None:
            return
        with self._changing():
            used, changes, counted = self._numbers()
            NUMBERS.pack_into(self._memory, 0, used - gone, changes + 1, counted)
            self._hold(-held)

    def check(self, size: int) -> None:
        """Raises HTTPException 507 if there is no room for as much now."""
        self.take(size)
        self.end(size, size)

    @property
    def used(self) -> int:
        """Bytes, as far as they are known."""
        return self._numbers()[0] if self.limit is not None else 0

    def count(self) -> None:
        """Counts if it is time. Only who needs the first number waits for another that counts."""
        if self.limit is None or not self._due():
            return
        with contextlib.ExitStack() as stack:
            first = not self._numbers()[2]
            if not self._walking.acquire(blocking=first):
                return
            stack.callback(self._walking.release)
            if not self._locked(WALKING, fcntl.LOCK_EX, wait=first):
                return
            stack.callback(self._locked, WALKING, fcntl.LOCK_UN)
            with self._changing():
                if not self._due() or self._others_upload():
                    return
                changes = self._numbers()[1]
            walked = self._walk()
            with self._changing():
                used, now, counted = self._numbers()
                if now == changes or not counted:
                    used = walked
                NUMBERS.pack_into(self._memory, 0, used, now, time.monotonic())

    def _numbers(self) -> tuple[int, int, float]:
        used, changes, counted = NUMBERS.unpack_from(self._memory)
        return used, changes, counted

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """Alone with the numbers, of all threads and processes."""
        with self._lock:
            self._locked(CHANGING, fcntl.LOCK_EX)
            try:
                yield
            finally:
                self._locked(CHANGING, fcntl.LOCK_UN)

    def _hold(self, size: int) -> None:
        """Says to all processes whether one has uploads under way: nobody counts meanwhile."""
        before, self._held = self._held, self._held + size
        if self._held and not before:
            self._locked(UPLOADING, fcntl.LOCK_SH)
        elif before and not self._held:
            self._locked(UPLOADING, fcntl.LOCK_UN)

    def _due(self) -> bool:
        counted = self._numbers()[2]
        return not self._held and not (counted and time.monotonic() - counted < COUNT_AGAIN)

    def _others_upload(self) -> bool:
        """Asked alone with the numbers: its lock must not take the place of this process's own."""
        if not self._locked(UPLOADING, fcntl.LOCK_EX, wait=False):
            return True
        self._locked(UPLOADING, fcntl.LOCK_UN)
        return False

    def _locked(self, which: int, how: int, *, wait: bool = True) -> bool:
        """Whether it could be had."""
        while True:
            try:
                fcntl.lockf(self._fd, how if wait else how | fcntl.LOCK_NB, 1, which)
                return True
            except (BlockingIOError, PermissionError):  # EAGAIN or EACCES, fcntl(2)
                return False
            except OSError as error:
                if error.errno != errno.EDEADLK:
                    raise
                # Seen in two processes of which different threads wait: there is none.
                time.sleep(0.001)

    def _walk(self) -> int:
        used = 0
        for _, entries in directories(self.root.fd):
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
        raise HTTPException(507, f"The disk is almost full: {floor} bytes of it are kept free.")
