"""Where a download goes: to a part file that becomes the file when it is whole, or to a pipe."""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Protocol

from noria.fileserver.client import digests
from noria.fileserver.client.memory import Note
from noria.fileserver.client.trouble import Failure


class Sink(Protocol):
    """Takes the bytes in order; `size` of them are there, of the representation `etag`."""

    size: int
    etag: str

    def restart(self, etag: str) -> None: ...
    def write(self, block: bytes) -> None: ...
    def sha256(self) -> str: ...
    def finish(self, overwrite: bool, modified: float | None) -> None: ...
    def close(self) -> None: ...


class PartFile:
    """Writes NAME.part beside NAME. What an interrupted run left in it is gone on with.

    `tell` is given what to warn of. Raises Failure if another process is at it, or if it is no
    regular file, OSError if it cannot be opened.
    """

    def __init__(
        self, target: Path, url: str, tell: Callable[[str], None] = lambda _: None
    ) -> None:
        self.target = target
        self._tell = tell
        self.path = target.with_name(target.name + ".part")
        self._note = Note("get", url, str(self.path.absolute()))
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(self.path, flags, 0o666)
        try:
            self._lock()
        except BaseException:
            os.close(self._fd)
            raise
        self.etag = str(self._note.read().get("etag", ""))
        self.size = os.fstat(self._fd).st_size if self.etag else 0
        os.lseek(self._fd, self.size, os.SEEK_SET)
        self._sum = digests.of_file(self.path, self.size)

    def _lock(self) -> None:
        """One process alone writes it; and what was opened is still what has that name."""
        if not stat.S_ISREG(os.fstat(self._fd).st_mode):
            raise Failure(f"{self.path} is in the way: it is not a regular file")
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(self._fd), os.lstat(self.path)):
                return
        except (BlockingIOError, FileNotFoundError):
            pass
        raise Failure(f"{self.path}: another noria get is writing it")

    def restart(self, etag: str) -> None:
        """Throws away what is there; without a strong `etag` it cannot be gone on with later."""
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        self.size, self.etag, self._sum = 0, etag, hashlib.sha256()
        if etag:
            if warning := self._note.write(etag=etag):
                self._tell(warning)
        else:
            self._note.forget()

    def write(self, block: bytes) -> None:
        view = memoryview(block)
        while view:
            view = view[os.write(self._fd, view) :]
        self.size += len(block)
        self._sum.update(block)

    def sha256(self) -> str:
        return self._sum.hexdigest()

    def finish(self, overwrite: bool, modified: float | None) -> None:
        """Puts the file in its place; `modified` is in seconds since the epoch.

        Raises Failure if a file has that name and `overwrite` is not given.
        """
        if modified is not None:
            os.utime(self._fd, (modified, modified))
        os.fsync(self._fd)
        if overwrite:
            os.replace(self.path, self.target)
        else:
            self._put()
        self._note.forget()
        sync_directory(self.target.parent)

    def _put(self) -> None:
        try:
            os.link(self.path, self.target, follow_symlinks=False)
        except FileExistsError:
            raise Failure(f"{self.target} exists; --overwrite replaces it") from None
        except OSError:  # a file system without hard links
            if os.path.lexists(self.target):
                raise Failure(f"{self.target} exists; --overwrite replaces it") from None
            os.rename(self.path, self.target)
            return
        os.unlink(self.path)

    def discard(self) -> None:
        """Removes the part: nothing of it is of use."""
        self._note.forget()
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Ends the writing. An empty part is not worth keeping."""
        if self.size == 0:
            self.discard()
        os.close(self._fd)


class Pipe:
    """Writes to standard output, a FIFO or a device: what has gone out cannot be taken back."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._sum = hashlib.sha256()
        self.size, self.etag = 0, ""

    def restart(self, etag: str) -> None:
        if self.size:
            raise Failure("the connection was lost, and the server cannot go on where it stood")
        self.etag = etag

    def write(self, block: bytes) -> None:
        self._file.write(block)
        self.size += len(block)
        self._sum.update(block)

    def sha256(self) -> str:
        return self._sum.hexdigest()

    def finish(self, overwrite: bool, modified: float | None) -> None:
        self._file.flush()

    def close(self) -> None:
        """Who opened it closes it."""


def sync_directory(path: Path) -> None:
    """The new name is on disk too (fsync(2): that of the file does not see to it)."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
