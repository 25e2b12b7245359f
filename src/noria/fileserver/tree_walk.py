"""Directory trees of any depth, walked with one descriptor at a time and paths of any length."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from types import TracebackType
from typing import Self

# Opening a directory fails with these for a reason that is not the directory's own.
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK

Identity = tuple[int, int]  # device and inode


class Walker:
    """A position in the tree beneath the open directory `top`, which stays open: `fd` is the
    directory there, `names` is how it is reached. Links are not followed."""

    def __init__(self, top: int) -> None:
        self._top = top
        self.names: list[str] = []
        self._above: list[Identity] = []  # of the directories that lead to `fd`, `top` first
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
        """Moves into the directory `name` of this one, which may be open as `fd` already.

        Raises OSError.
        """
        if fd < 0:
            fd = os.open(name, _DIRECTORY, dir_fd=self.fd)
        self._above.append(_identity(self.fd))
        self.names.append(name)
        os.close(self.fd)
        self.fd = fd

    def leave(self) -> None:
        """Moves to the directory above, or further up if that one was moved or removed meanwhile.

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
        """The directory that `names` lead to, as far as they lead to the directories of before."""
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
    """Open the directory `name` in `fd` if it is the one of that identity; else return -1.

    Raises OSError if there are too few descriptors.
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


def directories(top: int) -> Iterator[tuple[Walker, list[os.DirEntry[str]]]]:
    """The directory `top` and those beneath it, each before those in it, with its entries.

    What cannot be opened is skipped; the entries are valid until the next step. Raises OSError if
    there are too few descriptors, or `top` cannot be read.
    """
    with Walker(top) as at:
        pending: list[list[str]] = []  # for each directory on the way, those in it to be entered
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


def height(top: int, most: int) -> int:
    """The levels of directories and files beneath the open directory `top`; above `most`, some
    number that is too. Raises OSError as `directories`."""
    found = 0
    for at, entries in directories(top):
        found = max(found, len(at.names) + bool(entries))
        if found > most:
            break
    return found


def is_directory(entry: os.DirEntry[str]) -> bool:
    """Whether it is one, and no link to one, as far as the server may know."""
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
