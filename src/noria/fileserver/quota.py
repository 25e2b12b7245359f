"""How much may still be stored: the quota of the served directory, and the floor of the disk."""

from __future__ import annotations

import os
import threading
import time

from noria.fileserver.messages import Problem
from noria.fileserver.paths import Root

COUNT_AGAIN = 60.0  # seconds after which the files are counted again: others change them too


class Quota:
    """The files beneath the root may have `limit` bytes together; None is no limit.

    They are counted by a walk when first needed, and kept up with from then on; from time to time
    they are counted again. Called from threads.
    """

    def __init__(self, root: Root, limit: int | None):
        self.root = root
        self.limit = limit
        self._lock = threading.Lock()  # of the numbers
        self._walking = threading.Lock()
        self._used = 0
        self._held = 0  # of `_used`, by uploads that are under way
        self._changes = 0
        self._counted = float("-inf")

    def take(self, size: int) -> None:
        """Bytes of an upload under way. Raises Problem 507 if there is no room for them."""
        if self.limit is None:
            return
        self.count()
        with self._lock:
            if self._used + size > self.limit:
                raise Problem(
                    507, f"The quota of {self.limit} bytes does not allow {size} bytes more."
                )
            self._changes += 1
            self._used += size
            self._held += size

    def end(self, held: int, gone: int = 0) -> None:
        """An upload that held so much is over; `gone` bytes of those used are free again."""
        if self.limit is None:
            return
        with self._lock:
            self._changes += 1
            self._held -= held
            self._used -= gone

    def check(self, size: int) -> None:
        """Raises Problem 507 if there is no room for as much now."""
        self.take(size)
        self.end(size, size)

    def count(self) -> None:
        """Counts if it is time. Only who needs the first number waits for another that counts."""
        if self.limit is None or not self._due():
            return
        if not self._walking.acquire(blocking=self._counted == float("-inf")):
            return
        try:
            with self._lock:
                if not self._due():
                    return
                changes = self._changes
            used = self._walk()
            with self._lock:
                if changes == self._changes or self._counted == float("-inf"):
                    self._used = used
                self._counted = time.monotonic()
        finally:
            self._walking.release()

    def _due(self) -> bool:
        return not self._held and time.monotonic() - self._counted >= COUNT_AGAIN

    def _walk(self) -> int:
        used = 0
        for _, _, files, directory in os.fwalk(".", dir_fd=self.root.fd, follow_symlinks=False):
            for name in files:
                try:
                    used += os.stat(name, dir_fd=directory, follow_symlinks=False).st_size
                except FileNotFoundError:
                    continue
        return used


def check_disk(fd: int, size: int, floor: int) -> None:
    """Raises Problem 507 if the disk of the open `fd` had less than `floor` bytes free after it."""
    disk = os.fstatvfs(fd)
    if disk.f_bavail * disk.f_frsize - size < floor:
        raise Problem(507, f"The disk is almost full: {floor} bytes of it are kept free.")
