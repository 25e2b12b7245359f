"""Uploads under way, on disk.

An upload is two files in the hidden directory `.noria-uploads` of the served one: its bytes
(ID.data), and its UploadInfo as JSON (ID.json). The offset is the size of the first, so that
nothing can disagree with it. An upload with info and without bytes is finished. All functions
block and run in worker threads.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from noria.fileserver.partial_file import write_all
from noria.fileserver.root import Root
from noria.http.messages import HTTPException

DIRECTORY = ".noria-uploads"
MAX_AGE = 24 * 3600.0  # seconds without a change after which an upload is removed
_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(slots=True)
class UploadInfo:
    """What is known of an upload from its creation.

    `unverified`: the offset from which the bytes have no checked checksum, or None.
    """

    path: str = ""
    length: int = 0
    metadata: str = ""
    concat: str = ""  # the field Upload-Concat
    unverified: int | None = None
    if_match: str = ""  # the conditions of the creation: they apply when the upload is finished
    if_none_match: str = ""


class UploadStore:
    """The directory of uploads, which is created with the first upload."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._fd = -1

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _directory(self) -> int:
        if self._fd < 0:
            with contextlib.suppress(FileExistsError):
                os.mkdir(DIRECTORY, 0o700, dir_fd=self._root.fd)
                self._sync_root()
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            self._fd = os.open(DIRECTORY, flags, dir_fd=self._root.fd)
        return self._fd

    def _sync_root(self) -> None:
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._root.fd)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def _open(self, name: str, flags: int) -> int:
        flags |= os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(name, flags, 0o666, dir_fd=self._directory())

    @staticmethod
    def data_path(upload: str) -> str:
        """The path of an upload's bytes, relative to the root."""
        return f"{DIRECTORY}/{upload}.data"

    def create(self, info: UploadInfo) -> str:
        """Create an empty upload; return its id. If this fails, nothing of it is left."""
        upload = secrets.token_hex(16)
        os.close(self._open(f"{upload}.data", os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        try:
            self.write(upload, info)
        except BaseException:
            self.remove(upload)
            raise
        return upload

    def write(self, upload: str, info: UploadInfo) -> None:
        """Write the info durably. If this fails, the old info is still there."""
        directory = self._directory()
        fd = self._open(f"{upload}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            try:
                write_all(fd, [json.dumps(asdict(info)).encode()])
                os.fsync(fd)
            finally:
                os.close(fd)
            os.replace(
                f"{upload}.new", f"{upload}.json", src_dir_fd=directory, dst_dir_fd=directory
            )
        except BaseException:
            self._unlink(f"{upload}.new")
            raise
        os.fsync(directory)

    def _unlink(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._directory())

    def info(self, upload: str) -> UploadInfo:
        """Read the info. Raises HTTPException 404 if there is no such upload."""
        if not _ID.fullmatch(upload):
            raise HTTPException(404, "There is no such upload.")
        try:
            fd = self._open(f"{upload}.json", os.O_RDONLY)
        except FileNotFoundError:
            raise HTTPException(404, "There is no such upload; it may have expired.") from None
        with open(fd, "rb") as file:
            return UploadInfo(**json.loads(file.read()))

    def offset(self, upload: str, info: UploadInfo) -> int:
        """The number of bytes received, without unverified ones."""
        try:
            status = os.stat(f"{upload}.data", dir_fd=self._directory(), follow_symlinks=False)
        except FileNotFoundError:
            return info.length
        return status.st_size if info.unverified is None else min(status.st_size, info.unverified)

    def is_finished(self, upload: str) -> bool:
        """Whether the upload's bytes have become a file."""
        try:
            os.stat(f"{upload}.data", dir_fd=self._directory(), follow_symlinks=False)
        except FileNotFoundError:
            return True
        return False

    def expires(self, upload: str) -> float:
        """When it is removed if nothing more is sent, in seconds since the epoch."""
        return self._modified(upload) + MAX_AGE

    def _modified(self, upload: str) -> float:
        times = []
        for suffix in (".json", ".data"):
            with contextlib.suppress(FileNotFoundError):
                times.append(os.stat(upload + suffix, dir_fd=self._directory()).st_mtime)
        return max(times, default=0.0)

    @contextlib.contextmanager
    def locked(self, upload: str) -> Iterator[int]:
        """`lock` as a context manager."""
        fd = self.lock(upload)
        try:
            yield fd
        finally:
            os.close(fd)

    def lock(self, upload: str) -> int:
        """Open the bytes for reading and writing, and lock them: flock(2).

        Closing the descriptor unlocks them. Raises HTTPException 423 if another request has the
        lock, 410 if the upload is finished.
        """
        try:
            fd = self._open(f"{upload}.data", os.O_RDWR)
        except FileNotFoundError:
            raise HTTPException(410, "The upload is finished.") from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise HTTPException(423, "Another request is sending to this upload.") from None
        return fd

    def concatenate(self, parts: list[str], upload: str) -> None:
        """Append the bytes of `parts` to `upload`; a file system that can shares the blocks."""
        with self.locked(upload) as target:
            for part in parts:
                with self.locked(part) as source:
                    _append(source, target)
            os.fsync(target)

    def remove(self, upload: str) -> int:
        """Remove an upload; return the bytes freed.

        The info goes first, because info without bytes is a finished upload.
        """
        directory, size = self._directory(), 0
        self._unlink(f"{upload}.json")
        with contextlib.suppress(FileNotFoundError):
            size = os.stat(f"{upload}.data", dir_fd=directory).st_size
            os.unlink(f"{upload}.data", dir_fd=directory)
        return size

    def expire(self, earliest: float, latest: float) -> int:
        """Remove uploads last modified outside these limits, as AgeLimits gives them.

        Returns the bytes freed.
        """
        freed = 0
        try:
            os.stat(DIRECTORY, dir_fd=self._root.fd, follow_symlinks=False)
        except FileNotFoundError:
            return 0  # there was no upload yet
        for name in os.listdir(self._directory()):
            upload = name.partition(".")[0]
            if not _ID.fullmatch(upload) or earliest <= self._modified(upload) <= latest:
                continue
            try:
                with self.locked(upload):
                    freed += self.remove(upload)
            except HTTPException as error:
                if error.status != 410:
                    continue  # another request is sending to it
                self.remove(upload)
            self._unlink(f"{upload}.new")
        return freed


def _append(source: int, target: int) -> None:
    """Append all of one file to another: copy_file_range(2), or by blocks."""
    offset, end = 0, os.fstat(source).st_size
    os.lseek(target, 0, os.SEEK_END)
    while offset < end:
        try:
            count = os.copy_file_range(source, target, end - offset, offset)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            block = os.pread(source, 1 << 20, offset)
            count = os.write(target, block)
        if not count:
            raise OSError(errno.EIO, "a partial upload became shorter while it was copied")
        offset += count
