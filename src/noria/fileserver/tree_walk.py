"""Walk directory trees of any depth and path length with one open descriptor."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from types import TracebackType
from typing import Self

# Errors of open(2) that are not about the directory itself.
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK

Identity = tuple[int, int]  # device and inode


class Walker:
    """A position in the tree below the open directory `top`, which stays open.

    `fd` is the open directory at the position, `names` is the path to it. Symlinks are not
    followed.
    """

    def __init__(self, top: int) -> None:
        self._top = top
        self.names: list[str] = []
        self._above: list[Identity] = []  # the directories above `fd`, `top` first
        self.fd = os.open(".", _DIRECTORY, dir_fd=top)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def enter(self, name: str, fd: int = -1) -> None:
        """Move into the subdirectory `name`, which may already be open as `fd`.

        Raises OSError.
        """
        if fd < 0:
            fd = os.open(name, _DIRECTORY, dir_fd=self.fd)
        self._above.append(_identity(self.fd))
        self.names.append(name)
        os.close(self.fd)
        self.fd = fd

    def leave(self) -> None:
        """Move to the directory above, or further up if that one was moved or removed.

        Raises OSError if not even `top` can be opened.
        """
        wanted = self._above.pop()
        self.names.pop()
        above = _open_same("..", self.fd, wanted)
        if above < 0:
            above = self._from_top(wanted)
        os.close(self.fd)
        self.fd = above

    def _from_top(self, wanted: Identity) -> int:
        """Open the directory that `names` lead to, as far as they lead to the same directories."""
        fd = os.open(".", _DIRECTORY, dir_fd=self._top)
        expected = [*self._above, wanted][1:]
        for count, (name, identity) in enumerate(zip(self.names, expected, strict=True)):
            try:
                inner = _open_same(name, fd, identity)
            except OSError:
                os.close(fd)
                raise
            if inner < 0:
                del self.names[count:], self._above[count:]
                break
            os.close(fd)
            fd = inner
        return fd


def _open_same(name: str, fd: int, identity: Identity) -> int:
    """Open the directory `name` in `fd` if it has that identity; else return -1.

    Raises OSError if no descriptor is available.
    """
    try:
        found = os.open(name, _DIRECTORY, dir_fd=fd)
    except OSError as error:
        if error.errno in _EXHAUSTED:
            raise
        return -1
    if _identity(found) != identity:
        os.close(found)
        return -1
    return found


def walk_directories(top: int) -> Iterator[tuple[Walker, list[os.DirEntry[str]]]]:
    """The directory `top` and those below it, each before its subdirectories, with its entries.

    Directories that cannot be opened are skipped. The entries are valid until the next step.
    Raises OSError if no descriptor is available or `top` cannot be read.
    """
    with Walker(top) as at:
        pending: list[list[str]] = []  # for each directory on the path, subdirectories to enter
        entries = _entries(at.fd)
        while True:
            yield at, entries
            pending.append([each.name for each in entries if is_directory(each)])
            while True:
                if not pending[-1]:
                    if not at.names:
                        return
                    at.leave()
                    del pending[len(at.names) + 1 :]
                    continue
                try:
                    at.enter(pending[-1].pop())
                except OSError as error:
                    if error.errno in _EXHAUSTED:
                        raise
                    continue
                try:
                    entries = _entries(at.fd)
                except OSError as error:
                    if error.errno in _EXHAUSTED:
                        raise
                    entries = []
                break


def tree_height(top: int, limit: int) -> int:
    """The number of levels below the open directory `top`, counted until it is above `limit`.

    Raises OSError as `walk_directories`.
    """
    found = 0
    for at, entries in walk_directories(top):
        found = max(found, len(at.names) + bool(entries))
        if found > limit:
            break
    return found


def is_directory(entry: os.DirEntry[str]) -> bool:
    """Whether the entry is a directory, not a symlink to one; False if that is unknown."""
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def _entries(fd: int) -> list[os.DirEntry[str]]:
    with os.scandir(fd) as found:
        return list(found)


def _identity(fd: int) -> Identity:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino
