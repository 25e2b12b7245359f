"""Uploads under way, on disk: what has arrived of each, and what is known of it.

An upload is two files in the hidden directory `.noria-uploads` of the served one: its bytes, and a
JSON file of facts. How much has arrived is the size of the first, so nothing can disagree with it;
an upload whose facts are there and whose bytes are gone is finished. All is called in threads.
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

from noria.fileserver.root import Root
from noria.fileserver.storage import write_all
from noria.http.messages import HTTPException

DIRECTORY = ".noria-uploads"
LIFE = 24 * 3600.0  # seconds without a change after which an upload is removed
_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(slots=True)
class Facts:
    """`unverified`: the offset of bytes whose checksum is not known to be right, or None."""

    path: str = ""
    length: int = 0
    metadata: str = ""
    concat: str = ""  # the Upload-Concat it was made with
    unverified: int | None = None
    if_match: str = ""  # the conditions it was made with: they hold for its end
    if_none_match: str = ""


class Store:
    """The directory of uploads; it is made with the first."""

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
    def source(upload: str) -> str:
        """The path of an upload's bytes, relative to the root."""
        return f"{DIRECTORY}/{upload}.data"

    def create(self, facts: Facts) -> str:
        """A new, empty upload; returns its name. If it fails, nothing is left of it."""
        upload = secrets.token_hex(16)
        os.close(self._open(f"{upload}.data", os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        try:
            self.write(upload, facts)
        except BaseException:
            self.remove(upload)
            raise
        return upload

    def write(self, upload: str, facts: Facts) -> None:
        """Durable when it returns. If it fails, the facts of before are still there."""
        directory = self._directory()
        fd = self._open(f"{upload}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            try:
                write_all(fd, [json.dumps(asdict(facts)).encode()])
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

    def facts(self, upload: str) -> Facts:
        """Raises HTTPException 404 if there is no such upload."""
        if not _ID.fullmatch(upload):
            raise HTTPException(404, "There is no such upload.")
        try:
            fd = self._open(f"{upload}.json", os.O_RDONLY)
        except FileNotFoundError:
            raise HTTPException(404, "There is no such upload; it may be too old.") from None
        with open(fd, "rb") as file:
            return Facts(**json.loads(file.read()))

    def offset(self, upload: str, facts: Facts) -> int:
        """How many bytes have arrived and count."""
        try:
            status = os.stat(f"{upload}.data", dir_fd=self._directory(), follow_symlinks=False)
        except FileNotFoundError:
            return facts.length
        return status.st_size if facts.unverified is None else min(status.st_size, facts.unverified)

    def finished(self, upload: str) -> bool:
        """Whether its bytes have become the file they were to be."""
        try:
            os.stat(f"{upload}.data", dir_fd=self._directory(), follow_symlinks=False)
        except FileNotFoundError:
            return True
        return False

    def expires(self, upload: str) -> float:
        """When it will be removed if nothing comes, in seconds since the epoch."""
        return self._modified(upload) + LIFE

    def _modified(self, upload: str) -> float:
        times = []
        for suffix in (".json", ".data"):
            with contextlib.suppress(FileNotFoundError):
                times.append(os.stat(upload + suffix, dir_fd=self._directory()).st_mtime)
        return max(times, default=0.0)

    @contextlib.contextmanager
    def held(self, upload: str) -> Iterator[int]:
        """Its bytes, open to be added to, by nobody else meanwhile: flock(2).

        Raises HTTPException 423 if somebody is at it, 410 if it is finished.
        """
        fd = self.hold(upload)
        try:
            yield fd
        finally:
            os.close(fd)

    def hold(self, upload: str) -> int:
        """As `held`; who calls it closes the descriptor."""
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

    def join(self, parts: list[str], upload: str) -> None:
        """Appends the bytes of `parts` to `upload`, shared with theirs where the disk can."""
        with self.held(upload) as target:
            for part in parts:
                with self.held(part) as source:
                    _append(source, target)
            os.fsync(target)

    def remove(self, upload: str) -> int:
        """Facts first: bytes without facts are no finished upload. Returns the bytes freed."""
        directory, size = self._directory(), 0
        self._unlink(f"{upload}.json")
        with contextlib.suppress(FileNotFoundError):
            size = os.stat(f"{upload}.data", dir_fd=directory).st_size
            os.unlink(f"{upload}.data", dir_fd=directory)
        return size

    def expire(self, earliest: float, latest: float) -> int:
        """Removes what was modified before `earliest` or after `latest`, as of Ages; returns the
        bytes freed."""
        freed = 0
        try:
            os.stat(DIRECTORY, dir_fd=self._root.fd, follow_symlinks=False)
        except FileNotFoundError:
            return 0  # it is made with the first upload
        for name in os.listdir(self._directory()):
            upload = name.partition(".")[0]
            if not _ID.fullmatch(upload) or earliest <= self._modified(upload) <= latest:
                continue
            try:
                with self.held(upload):
                    freed += self.remove(upload)
            except HTTPException as problem:
                if problem.status != 410:
                    continue  # another request is sending to it
                self.remove(upload)
            self._unlink(f"{upload}.new")
        return freed


def _append(source: int, target: int) -> None:
    """All of one file to the end of another: copy_file_range(2), or by blocks."""
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
            raise OSError(errno.EIO, "a part became shorter while it was joined")
        offset += count
