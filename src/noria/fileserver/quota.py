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

    They are counted by a walk when first needed, and kept up with from then on. Called from
    threads.
    """

    def __init__(self, root: Root, limit: int | None):
        self.root = root
        self.limit = limit
        self._lock = threading.Lock()
        self._used = 0
        self._held = 0  # of `_used`, by uploads that are under way
        self._counted = float("-inf")

    def take(self, size: int) -> None:
        """Bytes of an upload under way. Raises Problem 507 if there is no room for them."""
        if self.limit is None:
            return
        with self._lock:
            self._count()
            if self._used + size > self.limit:
                raise Problem(
                    507, f"The quota of {self.limit} bytes does not allow {size} bytes more."
                )
            self._used += size
            self._held += size

    def end(self, held: int, gone: int = 0) -> None:
        """An upload that held so much is over; `gone` bytes of those used are free again."""
        if self.limit is None:
            return
        with self._lock:
            self._held -= held
            self._used -= gone

    def check(self, size: int) -> None:
        """Raises Problem 507 if there is no room for as much now."""
        self.take(size)
        self.end(size, size)

    def _count(self) -> None:
        if self._held or time.monotonic() - self._counted < COUNT_AGAIN:
            return
        self._used = 0
        for _, _, files, directory in os.fwalk(".", dir_fd=self.root.fd, follow_symlinks=False):
            for name in files:
                try:
                    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
                except FileNotFoundError:
                    continue
                self._used += status.st_size
        self._counted = time.monotonic()


def check_disk(fd: int, size: int, floor: int) -> None:
    """Raises Problem 507 if the disk of the open `fd` had less than `floor` bytes free after it."""
    disk = os.fstatvfs(fd)
    if disk.f_bavail * disk.f_frsize - size < floor:
        raise Problem(507, f"The disk is almost full: {floor} bytes of it are kept free.")
