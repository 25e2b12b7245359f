"""How a file gets in: written beside its target, synced, renamed, and only then acknowledged.

All of it is called in threads. What a SIGKILL leaves is a hidden part, or the whole file.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from noria._core.files.page_cache import begin_writeback, reserve
from noria._core.files.splice import Splice, StopReason
from noria.fileserver import syscalls
from noria.fileserver.quota import Quota, check_disk
from noria.fileserver.request_paths import HIDDEN, names
from noria.fileserver.root import Root, to_http_exception
from noria.fileserver.tree_walk import directories
from noria.http.conditional import etag, require_preconditions
from noria.http.messages import Headers, HTTPException

SUFFIX = ".part"
VECTORS = 1024  # IOV_MAX, writev(2)
DISK_STEP = 16 * 1024 * 1024  # bytes written between two looks at what the disk has free
ABANDONED = 60.0  # seconds without a change after which a part that nobody holds is removed


class Part:
    """An upload under way into `path`. Raises HTTPException wherever the kernel refuses."""

    def __init__(
        self,
        root: Root,
        path: str,
        quota: Quota,
        *,
        max_size: int | None,
        floor: int,
        hashed: bool,
    ):
        self.name = f"{HIDDEN}{secrets.token_hex(8)}{SUFFIX}"
        self.path = path
        self.size = 0
        self.hash = hashlib.sha256() if hashed else None
        self._root = root
        self._quota = quota
        self._max_size = max_size
        self._floor = floor
        self._checked = self._reserved = 0
        self._lock = threading.Lock()  # a cancelled task's last call may still be under way
        self._directory = self._fd = -1
        self._ended = False

    def open(self, conditions: Headers, overwrite: bool) -> None:
        """Makes the file that is written to, unless it is known by now that it may not be kept."""
        with self._lock, self._root.parent(self.path) as (directory, name):
            if self._ended:
                return
            admitted(directory, name, conditions, overwrite)
            check_disk(directory, 0, self._floor)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(self.name, flags, 0o666, dir_fd=directory)
            try:
                # Says to `sweep`, of this process and others, that somebody is at it.
                fcntl.flock(fd, fcntl.LOCK_EX)
                self._directory = os.dup(directory)
            except OSError:
                os.unlink(self.name, dir_fd=directory)
                os.close(fd)
                raise
            self._fd = fd

    def write(self, blocks: Sequence[bytes]) -> None:
        """Appends. Raises HTTPException 413 or 507 when it is too much."""
        with self._lock:
            self._write(blocks)

    def move(self, splice: Splice, source: int, most: int) -> tuple[int, int]:
        """Appends what comes of the socket `source`, at most so much, and not where the bytes are
        `hashed`. Gives (bytes, why it ended) as Splice.move. Raises as `write`.
        """
        with self._lock:
            if self._ended:
                return 0, StopReason.EOF
            begin, count = self.size, 0
            self._admit(most)
            try:
                self._reserved = ahead(self._fd, begin, most, self._reserved)
                count, why = splice.move(source, self._fd, most)
            except OSError as error:
                raise to_http_exception(error) from None
            finally:
                self._quota.end(most - count, most - count)
                self.size = begin + count
            self._begin_writeback(begin)
            return count, why

    def _write(self, blocks: Sequence[bytes]) -> None:
        if self._ended:
            return
        begin = self.size
        self._admit(sum(map(len, blocks)))
        try:
            for block in blocks:
                if self.hash is not None:
                    self.hash.update(block)
            write_all(self._fd, blocks)
        except OSError as error:
            raise to_http_exception(error) from None
        self._begin_writeback(begin)

    def _admit(self, count: int) -> None:
        """So many bytes more may come. Raises HTTPException."""
        size = self.size + count
        if self._max_size is not None and size > self._max_size:
            raise HTTPException(413, f"The file is too large: {self._max_size} bytes are the most.")
        self._quota.take(count)
        self.size = size
        if size - self._checked >= DISK_STEP:
            check_disk(self._fd, count, self._floor)
            self._checked = size

    def _begin_writeback(self, begin: int) -> None:
        """The client waits for the disk only with what is left at the end."""
        if self.size // DISK_STEP > begin // DISK_STEP:
            start = begin - begin % DISK_STEP
            begin_writeback(self._fd, start, self.size - start)

    def finish(
        self,
        last: Sequence[bytes],
        *,
        size: int | None,
        sha256: bytes | None,
        conditions: Headers,
        overwrite: bool,
    ) -> tuple[bool, str]:
        """Writes the last bytes, checks, syncs, renames, syncs the directory.

        Gives whether the file is new, and its entity tag.
        """
        with self._lock:
            if self._ended:  # the task was cancelled: nobody learns of this
                return False, ""
            self._write(last)
            if size is not None and self.size != size:
                raise HTTPException(
                    400, f"The body has {self.size} bytes, and not {size} as it said."
                )
            if sha256 is not None and self.hash is not None and self.hash.digest() != sha256:
                raise HTTPException(
                    400, "The SHA-256 of the body is not the one that came with it."
                )
            try:
                new, tag, gone = commit(
                    self._directory,
                    self.name,
                    self._fd,
                    self._directory,
                    names(self.path)[-1],
                    conditions,
                    overwrite,
                )
            except OSError as error:
                raise to_http_exception(error) from None
            self._close(gone)
            return new, tag

    def abandon(self) -> None:
        """Removes what was written; nothing if it is finished."""
        with self._lock:
            if self._ended:
                return
            self._ended = True
            if self._fd < 0:
                return
            try:
                os.unlink(self.name, dir_fd=self._directory)
            except FileNotFoundError:
                pass
            finally:
                self._close(self.size)

    def _close(self, gone: int) -> None:
        self._quota.end(self.size, gone)
        os.close(self._fd)
        os.close(self._directory)
        self._fd = self._directory = -1
        self._ended = True


def ahead(fd: int, offset: int, most: int, reserved: int) -> int:
    """Reserves room for `most` bytes at `offset`, unless half of it is `reserved` already: slow
    clients send little at a time. Gives up to where room is reserved now. Raises OSError."""
    if offset + most // 2 <= reserved:
        return reserved
    reserve(fd, offset, most)
    return offset + most


def write_all(fd: int, blocks: Sequence[bytes]) -> None:
    """writev(2) until all is written. Raises OSError."""
    left = [memoryview(block) for block in blocks if block]
    while left:
        count = os.writev(fd, left[:VECTORS])
        while count and count >= len(left[0]):
            count -= len(left.pop(0))
        if count:
            left[0] = left[0][count:]


def commit(
    source_directory: int,
    source: str,
    fd: int,
    directory: int,
    name: str,
    conditions: Headers,
    overwrite: bool,
) -> tuple[bool, str, int]:
    """Syncs the file `fd`, renames it to `name`, and syncs its directory.

    It takes the place of a file only as `admitted` says, at that moment. Gives (new, entity tag,
    bytes of the file that was replaced). Raises HTTPException, OSError.
    """
    os.fsync(fd)
    with locked(directory):
        old = admitted(directory, name, conditions, overwrite)
        if old is None:
            try:
                syscalls.rename_new(source_directory, source, directory, name)
            except FileExistsError:  # of a program that knows nothing of the lock
                admitted(directory, name, conditions, overwrite=False)
                raise
        else:
            if stat.S_ISREG(old.st_mode):
                os.fchmod(fd, stat.S_IMODE(old.st_mode) & 0o777)
            os.replace(source, name, src_dir_fd=source_directory, dst_dir_fd=directory)
        tag = etag(os.fstat(fd))
    os.fsync(directory)
    if source_directory != directory:
        os.fsync(source_directory)
    return old is None, tag, old.st_size if old is not None else 0


def admitted(
    directory: int, name: str, conditions: Headers, overwrite: bool
) -> os.stat_result | None:
    """What a file stored under this name would take the place of; None if nothing is there.

    It may only with `overwrite` or an If-Match that names what is there, "*" being no name. Raises
    HTTPException 412 of the conditions, 409 if it may not; OSError of what is no file.
    """
    old = status_of(directory, name)
    require_preconditions(conditions, old)
    if old is None:
        return None
    if stat.S_ISDIR(old.st_mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
    named = conditions.get("if-match").strip()
    if not overwrite and named in ("", "*"):
        raise HTTPException(
            409,
            "There is a file of that name, and it is not overwritten: name its ETag in "
            "If-Match, or start the server with --overwrite.",
        )
    if not (stat.S_ISREG(old.st_mode) or stat.S_ISLNK(old.st_mode)):
        raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
    return old


def status_of(directory: int, name: str) -> os.stat_result | None:
    """lstat(2) in a directory; None if there is nothing."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


@contextmanager
def locked(directory: int) -> Iterator[None]:
    """Only one changes names there at a time, of all processes that serve it: flock(2)."""
    fcntl.flock(directory, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(directory, fcntl.LOCK_UN)


def sweep(root: Root, ended: Callable[[], bool] = bool) -> int:
    """Removes the parts that a killed process left, and says how many; stops once `ended()`."""
    count = 0
    for at, entries in directories(root.fd):
        if ended():
            break
        count += _sweep_names(at.fd, (entry.name for entry in entries))
    return count


def sweep_directory(directory: int) -> int:
    """The same in one open directory."""
    return _sweep_names(directory, os.listdir(directory))


def _sweep_names(directory: int, found: Iterable[str]) -> int:
    parts = (name for name in found if name.startswith(HIDDEN) and name.endswith(SUFFIX))
    return sum(_sweep(directory, name) for name in parts)


def _sweep(directory: int, name: str) -> bool:
    try:
        fd = os.open(
            name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory
        )
    except OSError:
        return False
    try:
        # Of the future if the clock was set back: then only a lock says that somebody is at it.
        if abs(time.time() - os.fstat(fd).st_mtime) < ABANDONED:
            return False
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(name, dir_fd=directory)
    except OSError:
        return False  # somebody is at it
    finally:
        os.close(fd)
    return True
