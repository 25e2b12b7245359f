"""A part file: NAME.part, which becomes NAME when the download is complete."""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from noria.http.digests import HashingStopped, hash_file
from noria.transfer.errors import TargetExists, TransferError
from noria.transfer.parsers import MAX_NAME_BYTES, redact_url, strong_etag
from noria.transfer.resume_state import ResumeRecord
from noria.transfer.status_errors import EXISTS_MESSAGE

MAX_PART_NAMES = 100  # tried if other files have the first ones
MAX_BEGINNING_BYTES = 64 << 10  # of a part, by which it is recognised


class PartFile:
    """Writes NAME.part in the directory of NAME, and resumes what an interrupted run left in it.

    An existing file is only written to or removed if an earlier run created it: then a record
    (resume_state.py) has the digest of its beginning. If no record can be written, the part is
    removed at the end of the run. If another file has the name, or the name is among `reserved`
    (absolute paths), the part is NAME.1.part, and so on.

    `warn` is called with warnings. Raises TransferError if another process writes the part or a
    file is in the way, OSError if the part cannot be opened, HashingStopped if `stop` is set.
    """

    def __init__(
        self,
        target: Path,
        url: str,
        warn: Callable[[str], None] = lambda _: None,
        reserved: frozenset[str] = frozenset(),
        stop: threading.Event | None = None,
    ) -> None:
        self.target = target
        self.warn = warn
        self.size, self.etag = 0, ""
        self._recorded = 0  # length of the beginning in the record
        self._fd, created = self._open(url, reserved)
        try:
            if created:  # the next run must recognise an empty part too
                self._write_record()
                self._require_few_parts()
            self._sha256 = hash_file(self._fd, self.size, stop)
            if stop is not None and stop.is_set():
                raise HashingStopped
        except BaseException:
            self.close()
            raise

    def _open(self, url: str, reserved: frozenset[str]) -> tuple[int, bool]:
        """Return a locked descriptor of the part, and whether the part is new.

        Sets `path`, and for an existing part `size` and `etag`.
        """
        directory = os.path.realpath(self.target.parent)
        for number in range(MAX_PART_NAMES):
            self._number = number
            suffix = f".{number}.part" if number else ".part"
            self.path = self.target.with_name(_add_suffix(self.target.name, suffix))
            if os.path.abspath(self.path) in reserved:
                continue
            self._record = ResumeRecord(
                "get", redact_url(url), os.path.join(directory, self.path.name)
            )
            try:
                return _create_locked(self.path), True
            except FileExistsError:
                pass
            fd = self._reopen()
            if fd is not None:
                return fd, False
        raise TransferError(
            f"{self.path} and the parts before it are in the way: remove unused parts"
        )

    def _require_few_parts(self) -> None:
        """Raise TransferError if each killed run would leave another part."""
        if self._number > 1 and not self._record.saved:
            first = self.target.with_name(_add_suffix(self.target.name, ".part"))
            raise TransferError(
                f"{first} and other parts are in the way, and none can be resumed, because "
                f"{self._record.path.parent} cannot be written to: remove unused parts"
            )

    def _reopen(self) -> int | None:
        """Return a locked descriptor of an earlier run's part, None if the file is not one."""
        try:
            if not stat.S_ISREG(os.lstat(self.path).st_mode):
                raise TransferError(f"{self.path} is in the way: it is not a regular file")
            fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except (PermissionError, FileNotFoundError):  # not writable, or it has just become NAME
            return None
        try:
            if not _lock(fd) or not _has_name(fd, self.path):
                raise TransferError(f"{self.path}: another noria get is writing it")
            record = self._record.read()
            if self._has_beginning(fd, record):
                self._recorded, self._record.saved = record["length"], True
                self.etag = strong_etag(str(record.get("etag", "")))
                self.size = os.fstat(fd).st_size if self.etag else 0
                os.lseek(fd, self.size, os.SEEK_SET)
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        return None

    @staticmethod
    def _has_beginning(fd: int, record: dict[str, Any]) -> bool:
        """Whether the file begins with the bytes that the record describes."""
        length, expected = record.get("length"), record.get("begins")
        if type(length) is not int or not 0 <= length <= MAX_BEGINNING_BYTES:
            return False
        # Many files share a few bytes, so a record of less is replaced before the part doubles.
        if length < MAX_BEGINNING_BYTES and os.fstat(fd).st_size > 2 * length:
            return False
        beginning = os.pread(fd, length, 0)
        return len(beginning) == length and hashlib.sha256(beginning).hexdigest() == expected

    def restart(self, etag: str) -> None:
        """Discard what was written. Without a strong `etag`, the next run cannot resume."""
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        self.size, self.etag, self._sha256 = 0, etag, hashlib.sha256()
        self._write_record()

    def write(self, block: bytes) -> None:
        view = memoryview(block)
        while view:
            view = view[os.write(self._fd, view) :]
        self.size += len(block)
        self._sha256.update(block)
        if self._recorded < MAX_BEGINNING_BYTES and self.size >= 2 * self._recorded:
            self._write_record()

    def _write_record(self) -> None:
        """Write the record by which the next run recognises the part."""
        beginning = os.pread(self._fd, MAX_BEGINNING_BYTES, 0)
        self._recorded = len(beginning)
        begins = hashlib.sha256(beginning).hexdigest()
        warning = self._record.write(etag=self.etag, length=len(beginning), begins=begins)
        if warning:
            self.warn(warning)

    def sha256(self) -> str:
        return self._sha256.hexdigest()

    def finish(self, overwrite: bool, modified: float | None) -> None:
        """Rename the part to NAME; `modified` is in seconds since the epoch.

        Raises TargetExists without `overwrite`, TransferError if the part was moved or replaced.
        """
        if not _has_name(self._fd, self.path):
            raise TransferError(
                f"{self.path} was moved or replaced during the download; run the command again"
            )
        if modified is not None:
            os.utime(self._fd, (modified, modified))
        os.fsync(self._fd)
        if overwrite:
            os.replace(self.path, self.target)
        else:
            self._rename_exclusively()
        self._record.delete()
        _sync_directory(self.target.parent)

    def _rename_exclusively(self) -> None:
        try:
            os.link(self.path, self.target, follow_symlinks=False)
        except FileExistsError:
            raise TargetExists(EXISTS_MESSAGE.format(self.target)) from None
        except OSError:  # no hard links on this file system
            if os.path.lexists(self.target):
                raise TargetExists(EXISTS_MESSAGE.format(self.target)) from None
            os.rename(self.path, self.target)
            return
        os.unlink(self.path)

    def close(self) -> None:
        """Close the part, and remove it if it is empty or has no record."""
        try:
            if _has_name(self._fd, self.path):  # not finished
                size = os.fstat(self._fd).st_size
                # If write(2) failed, what it wrote before is not in the record yet.
                if self._record.saved and self._recorded < min(size, MAX_BEGINNING_BYTES):
                    self._write_record()
                if size == 0 or not self._record.saved:
                    self._record.delete()
                    self.path.unlink(missing_ok=True)
        finally:
            os.close(self._fd)


def _add_suffix(name: str, suffix: str) -> str:
    """Return the name with the suffix, shortened if the file system would refuse its length."""
    data, end = os.fsencode(name), os.fsencode(suffix)
    if len(data) + len(end) <= MAX_NAME_BYTES:
        return name + suffix
    # "ignore" drops a character that is split.
    kept = data[: MAX_NAME_BYTES - len(end)].decode("utf-8", "ignore")
    return os.fsdecode(kept.encode() + end)


def _create_locked(path: Path) -> int:
    """Create a file that is locked before it has a name, so no process finds it unlocked.

    Raises FileExistsError.
    """
    try:
        fd = os.open(path.parent, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o666)
    except OSError:
        return _create(path)  # no O_TMPFILE on this file system, or the directory is unusable
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        # Only with src_dir_fd does Python call linkat(2), which can follow the link in /proc.
        os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd, follow_symlinks=True)
    except FileExistsError:
        os.close(fd)
        raise
    except OSError:  # no /proc, or no hard links on this file system
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
    """Whether the path still leads to the open file."""
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


def _sync_directory(path: Path) -> None:
    """Write a new name in the directory to the disk: fsync(2) of the file does not do that."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
