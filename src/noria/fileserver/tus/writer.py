"""Append the body of a request to an upload."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from noria._core.files.splice import Splice
from noria.fileserver.file_store import FileStore
from noria.fileserver.partial_file import reserve_ahead, write_all
from noria.fileserver.quota import check_disk
from noria.fileserver.tus.fields import Checksum
from noria.http.messages import HTTPException

TOO_LONG = "The body is longer than what is missing of the upload."


class UploadWriter:
    """Appends to the open file `fd` of an upload of `length` bytes, in worker threads.

    All methods raise HTTPException or OSError.
    """

    def __init__(self, files: FileStore, fd: int, length: int) -> None:
        self._files = files
        self._fd = fd
        self._length = length
        self.offset = 0
        self._reserved = 0  # offset up to which disk space is reserved

    def write(self, blocks: list[bytes], checksum: Checksum | None) -> None:
        """Append the blocks."""
        with self._reserve_quota(sum(map(len, blocks))):
            os.lseek(self._fd, self.offset, os.SEEK_SET)
            try:
                write_all(self._fd, blocks)
            finally:
                self.offset = os.lseek(self._fd, 0, os.SEEK_CUR)
            if checksum is not None:
                for block in blocks:
                    checksum.update(block)

    def move(self, splice: Splice, source: int, max_bytes: int) -> tuple[int, int]:
        """Append from a socket, as PartialFile.move."""
        with self._reserve_quota(max_bytes):
            os.lseek(self._fd, self.offset, os.SEEK_SET)
            try:
                self._reserved = reserve_ahead(self._fd, self.offset, max_bytes, self._reserved)
                count, why = splice.move(source, self._fd, max_bytes)
            finally:
                self.offset = os.lseek(self._fd, 0, os.SEEK_CUR)
            return count, why

    @contextmanager
    def _reserve_quota(self, count: int) -> Iterator[None]:
        """Reserve `count` bytes of the quota; release what was not written."""
        if self.offset + count > self._length:
            raise HTTPException(413, TOO_LONG)
        check_disk(self._fd, count, self._files.disk_floor)
        self._files.quota.reserve(count)
        before = self.offset
        try:
            yield
        finally:
            self._files.quota.release(count, count - (self.offset - before))

    def sync(self) -> None:
        """Make the bytes durable: the offset in the response must survive a crash."""
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise

    def truncate(self, offset: int) -> None:
        """Discard the bytes from `offset` on."""
        os.ftruncate(self._fd, offset)
        self._files.quota.release(0, self.offset - offset)
        self.offset = offset
