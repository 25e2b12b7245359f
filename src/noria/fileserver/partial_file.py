"""A file that is being uploaded: a hidden file beside its target, renamed when it is complete.

A process that is killed leaves either the hidden file or the complete one. All methods block and
run in worker threads.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import threading
from collections.abc import Sequence

from noria._core.files.page_cache import begin_writeback, reserve
from noria._core.files.splice import Splice, StopReason
from noria.fileserver.commit import check_replaceable, commit
from noria.fileserver.quota import Quota, check_disk
from noria.fileserver.request_paths import RESERVED_NAME_PREFIX, split_path
from noria.fileserver.root import Root, to_http_exception
from noria.http.messages import Headers, HTTPException

SUFFIX = ".part"
IOV_MAX = 1024  # buffers in one call, writev(2)
DISK_CHECK_STEP = 16 * 1024 * 1024  # bytes written between two checks of the free disk space


class PartialFile:
    """An upload to `path` that is under way.

    `max_size`: bytes; `floor`: bytes of the disk to keep free; `hashed`: compute SHA-256.
    All methods raise HTTPException where the kernel reports an error.
    """

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
        self.name = f"{RESERVED_NAME_PREFIX}{secrets.token_hex(8)}{SUFFIX}"
        self.path = path
        self.size = 0
        self.hash = hashlib.sha256() if hashed else None
        self._root = root
        self._quota = quota
        self._max_size = max_size
        self._floor = floor
        self._checked = 0  # the size at the last check of the free disk space
        self._reserved = 0  # offset up to which disk space is reserved
        self._lock = threading.Lock()  # the last call of a cancelled task may still be running
        self._directory = self._fd = -1
        self._closed = False

    def open(self, conditions: Headers, overwrite: bool) -> None:
        """Create the file, unless the preconditions already fail."""
        with self._lock, self._root.parent(self.path) as (directory, name):
            if self._closed:
                return
            check_replaceable(directory, name, conditions, overwrite)
            check_disk(directory, 0, self._floor)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(self.name, flags, 0o666, dir_fd=directory)
            try:
                # While the lock is held, `remove_stale` skips the file, in all processes.
                fcntl.flock(fd, fcntl.LOCK_EX)
                self._directory = os.dup(directory)
            except OSError:
                os.unlink(self.name, dir_fd=directory)
                os.close(fd)
                raise
            self._fd = fd

    def write(self, blocks: Sequence[bytes]) -> None:
        """Append. Raises HTTPException 413 or 507 if the file becomes too large."""
        with self._lock:
            self._write(blocks)

    def move(self, splice: Splice, source: int, max_bytes: int) -> tuple[int, int]:
        """Append up to `max_bytes` from the socket `source`. Not for a `hashed` file.

        Returns (bytes, reason it stopped) as Splice.move. Raises as `write`.
        """
        with self._lock:
            if self._closed:
                return 0, StopReason.EOF
            begin, count = self.size, 0
            self._reserve_quota(max_bytes)
            try:
                self._reserved = reserve_ahead(self._fd, begin, max_bytes, self._reserved)
                count, why = splice.move(source, self._fd, max_bytes)
            except OSError as error:
                raise to_http_exception(error) from None
            finally:
                self._quota.release(max_bytes - count, max_bytes - count)
                self.size = begin + count
            self._begin_writeback(begin)
            return count, why

    def _write(self, blocks: Sequence[bytes]) -> None:
        if self._closed:
            return
        begin = self.size
        self._reserve_quota(sum(map(len, blocks)))
        try:
            for block in blocks:
                if self.hash is not None:
                    self.hash.update(block)
            write_all(self._fd, blocks)
        except OSError as error:
            raise to_http_exception(error) from None
        self._begin_writeback(begin)

    def _reserve_quota(self, count: int) -> None:
        """Check the limits for `count` more bytes and add them to `size`."""
        size = self.size + count
        if self._max_size is not None and size > self._max_size:
            raise HTTPException(413, too_large(self._max_size))
        self._quota.reserve(count)
        self.size = size
        if size - self._checked >= DISK_CHECK_STEP:
            check_disk(self._fd, count, self._floor)
            self._checked = size

    def _begin_writeback(self, begin: int) -> None:
        """Start writing to the disk now, so that the final sync has little left to wait for."""
        if self.size // DISK_CHECK_STEP > begin // DISK_CHECK_STEP:
            start = begin - begin % DISK_CHECK_STEP
            begin_writeback(self._fd, start, self.size - start)

    def finish(
        self,
        last: Sequence[bytes],
        *,
        size: int | None,
        sha256: bytes | None,
        conditions: Headers,
        overwrite: bool,
    ) -> tuple[bool, str] | None:
        """Write the last blocks, check size and digest, and commit the file to its path.

        Returns (whether the file is new, its entity tag), or None if it was abandoned.
        """
        with self._lock:
            if self._closed:
                return None
            self._write(last)
            if size is not None and self.size != size:
                raise HTTPException(
                    400, f"The body has {self.size} bytes, but {size} were announced."
                )
            if sha256 is not None and self.hash is not None and self.hash.digest() != sha256:
                raise HTTPException(400, "The SHA-256 of the body does not match its digest field.")
            try:
                new, tag, freed = commit(
                    self._directory,
                    self.name,
                    self._fd,
                    self._directory,
                    split_path(self.path)[-1],
                    conditions,
                    overwrite,
                )
            except OSError as error:
                raise to_http_exception(error) from None
            self._close(freed)
            return new, tag

    def abandon(self) -> None:
        """Remove what was written, unless the file is finished."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._fd < 0:
                return
            try:
                os.unlink(self.name, dir_fd=self._directory)
            except FileNotFoundError:
                pass
            finally:
                self._close(self.size)

    def _close(self, freed: int) -> None:
        self._quota.release(self.size, freed)
        os.close(self._fd)
        os.close(self._directory)
        self._fd = self._directory = -1
        self._closed = True


def too_large(max_size: int) -> str:
    """The text of HTTPException 413."""
    return f"The file is too large: the maximum upload size is {max_size} bytes."


def reserve_ahead(fd: int, offset: int, max_bytes: int, reserved: int) -> int:
    """Reserve disk space for `max_bytes` at `offset`; return the offset up to which it is.

    Nothing is done while half of them are below `reserved`, because slow clients send little at a
    time. Raises OSError.
    """
    if offset + max_bytes // 2 <= reserved:
        return reserved
    reserve(fd, offset, max_bytes)
    return offset + max_bytes


def write_all(fd: int, blocks: Sequence[bytes]) -> None:
    """writev(2) until all blocks are written. Raises OSError."""
    left = [memoryview(block) for block in blocks if block]
    while left:
        count = os.writev(fd, left[:IOV_MAX])
        while count and count >= len(left[0]):
            count -= len(left.pop(0))
        if count:
            left[0] = left[0][count:]
