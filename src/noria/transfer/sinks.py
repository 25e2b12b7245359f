"""Where a download goes: to a part file that becomes the file when it is whole, or to a pipe."""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from noria.transfer import file_digests
from noria.transfer.errors import Failure
from noria.transfer.parsers import MAX_NAME_BYTES, shown, strong_etag
from noria.transfer.resume_state import Note

MAX_PART_NAMES = 100  # that are tried where files of others have them
MAX_BEGINNING_BYTES = 64 << 10  # of a part, by which it is recognised


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
    """Writes NAME.part beside NAME, and resumes what an interrupted run left in it.

    A file is only written to or removed if this run made it, or if an earlier run did: then a note
    (memory.py) says how its content begins. Where no note can be kept, the part is removed at the
    end of the run. Where the name is taken by another file, or is among `reserved` (absolute
    paths), the part is NAME.1.part, and so on.

    `tell` is given what to warn of. Raises Failure if another process writes the part, or if
    something is in the way, OSError if it cannot be opened, file_digests.Stopped if `stop` is set.
    """

    def __init__(
        self,
        target: Path,
        url: str,
        tell: Callable[[str], None] = lambda _: None,
        reserved: frozenset[str] = frozenset(),
        stop: threading.Event | None = None,
    ) -> None:
        self.target = target
        self.tell = tell
        self.size, self.etag = 0, ""
        self._noted = 0  # length of the beginning in the note
        self._fd, created = self._open(url, reserved)
        try:
            if created:  # an empty part must be recognised too
                self._remember()
                self._require_few()
            self._sum = file_digests.of_descriptor(self._fd, self.size, stop)
            if stop is not None and stop.is_set():
                raise file_digests.Stopped
        except BaseException:
            self.close()
            raise

    def _open(self, url: str, reserved: frozenset[str]) -> tuple[int, bool]:
        """A locked descriptor of the part, and whether the part is new.

        Sets `path`, and `size` and `etag` of what is there.
        """
        directory = os.path.realpath(self.target.parent)
        for number in range(MAX_PART_NAMES):
            self._number = number
            suffix = f".{number}.part" if number else ".part"
            self.path = self.target.with_name(_shortened(self.target.name, suffix))
            if os.path.abspath(self.path) in reserved:
                continue
            self._note = Note("get", shown(url), os.path.join(directory, self.path.name))
            try:
                return _create_locked(self.path), True
            except FileExistsError:
                pass
            fd = self._reopen()
            if fd is not None:
                return fd, False
        raise Failure(f"{self.path} and the parts before it are in the way: remove what is unused")

    def _require_few(self) -> None:
        """Raises Failure where killed runs would each leave another part."""
        if self._number > 1 and not self._note.kept:
            first = self.target.with_name(_shortened(self.target.name, ".part"))
            raise Failure(
                f"{first} and other parts are in the way, and none can be resumed, because "
                f"{self._note.path.parent} cannot be written to: remove what is unused"
            )

    def _reopen(self) -> int | None:
        """The part that an earlier run left, locked; None if the file is not such a part."""
        try:
            if not stat.S_ISREG(os.lstat(self.path).st_mode):
                raise Failure(f"{self.path} is in the way: it is not a regular file")
            fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except (PermissionError, FileNotFoundError):  # not written here, or finished just now
            return None
        try:
            if not _lock(fd) or not _has_name(fd, self.path):
                raise Failure(f"{self.path}: another noria get is writing it")
            note = self._note.read()
            if self._begins_as(fd, note):
                self._noted, self._note.kept = note["length"], True
                self.etag = strong_etag(str(note.get("etag", "")))
                self.size = os.fstat(fd).st_size if self.etag else 0
                os.lseek(fd, self.size, os.SEEK_SET)
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        return None

    @staticmethod
    def _begins_as(fd: int, note: dict[str, Any]) -> bool:
        """Whether the file begins with the bytes that the note's run received first."""
        length, expected = note.get("length"), note.get("begins")
        if type(length) is not int or not 0 <= length <= MAX_BEGINNING_BYTES:
            return False
        # A note of less is renewed before the part is twice as long: many files share a few bytes.
        if length < MAX_BEGINNING_BYTES and os.fstat(fd).st_size > 2 * length:
            return False
        beginning = os.pread(fd, length, 0)
        return len(beginning) == length and hashlib.sha256(beginning).hexdigest() == expected

    def restart(self, etag: str) -> None:
        """Discards what is there; without a strong `etag` it cannot be resumed later."""
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        self.size, self.etag, self._sum = 0, etag, hashlib.sha256()
        self._remember()

    def write(self, block: bytes) -> None:
        view = memoryview(block)
        while view:
            view = view[os.write(self._fd, view) :]
        self.size += len(block)
        self._sum.update(block)
        if self._noted < MAX_BEGINNING_BYTES and self.size >= 2 * self._noted:
            self._remember()

    def _remember(self) -> None:
        """By this the next run knows that the part is its own."""
        beginning = os.pread(self._fd, MAX_BEGINNING_BYTES, 0)
        self._noted = len(beginning)
        begins = hashlib.sha256(beginning).hexdigest()
        warning = self._note.write(etag=self.etag, length=len(beginning), begins=begins)
        if warning:
            self.tell(warning)

    def sha256(self) -> str:
        return self._sum.hexdigest()

    def finish(self, overwrite: bool, modified: float | None) -> None:
        """Puts the file in its place; `modified` is in seconds since the epoch.

        Raises Failure if a file has that name and `overwrite` is not given, or if the part has been
        moved or replaced.
        """
        if not _has_name(self._fd, self.path):
            raise Failure(f"{self.path} was moved or replaced while it was written; fetch it again")
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

    def close(self) -> None:
        """Ends the writing. A part that is empty, or of which no note could be kept, is removed."""
        try:
            if _has_name(self._fd, self.path):  # not finished
                size = os.fstat(self._fd).st_size
                # What was written before write(2) failed counts too.
                if self._note.kept and self._noted < min(size, MAX_BEGINNING_BYTES):
                    self._remember()
                if size == 0 or not self._note.kept:
                    self._note.forget()
                    self.path.unlink(missing_ok=True)
        finally:
            os.close(self._fd)


def _shortened(name: str, suffix: str) -> str:
    """The name with the suffix, its own end cut off where the file system would refuse it."""
    data, end = os.fsencode(name), os.fsencode(suffix)
    if len(data) + len(end) <= MAX_NAME_BYTES:
        return name + suffix
    whole = data[: MAX_NAME_BYTES - len(end)].decode("utf-8", "ignore")  # no half character
    return os.fsdecode(whole.encode() + end)


def _create_locked(path: Path) -> int:
    """A new file that is locked before it has its name, so that nobody finds it without the lock.

    Raises FileExistsError if something has the name.
    """
    try:
        fd = os.open(path.parent, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o666)
    except OSError:
        return _create(path)  # a file system without unnamed files; or the error is raised there
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        # With a descriptor of a directory Python calls linkat(2), which follows /proc's link.
        os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd, follow_symlinks=True)
    except FileExistsError:
        os.close(fd)
        raise
    except OSError:  # no /proc, or a file system without links
        os.close(fd)
        return _create(path)
    return fd


def _create(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _has_name(fd: int, path: Path) -> bool:
    """Whether `path` is still the name of the open file."""
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


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
