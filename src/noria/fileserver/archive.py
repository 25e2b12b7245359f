"""A directory as a tar or zip archive, generated block by block while it is sent.

The archive has files and directories; symlinks and special files are skipped. A file that becomes
shorter meanwhile is padded with zeros in a tar, because its header was already sent; one that grows
is cut at the size it had when it was opened. Files that cannot be read are skipped and logged,
because the response has already begun.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import stat
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator

from noria.fileserver.request_paths import is_valid_name
from noria.fileserver.root import Root
from noria.fileserver.tree_walk import Walker
from noria.http.conditional import MAX_TIMESTAMP, MIN_TIMESTAMP

log = logging.getLogger("noria")

BLOCK = 256 * 1024  # bytes; reads have this size, and yielded blocks at least this size
# Bytes: the field for the length has 16 bits, and the path of a directory ends in "/".
ZIP_PATH_MAX = 0xFFFF - 1

# Errors of entries that were removed or replaced after their directory was listed.
_VANISHED = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO)

Entry = tuple[str, int, os.stat_result]  # path in the archive, descriptor, status


def tar_blocks(root: Root, top: int, name: str) -> Iterator[bytes]:
    """The blocks of a pax tar of the open directory `top`; paths in it begin with `name`."""
    out = _BlockBuffer()
    for path, fd, status in walk_entries(root, top, name):
        info = tarfile.TarInfo(path)
        info.mtime = int(status.st_mtime)
        info.mode = stat.S_IMODE(status.st_mode) & 0o777
        if stat.S_ISDIR(status.st_mode):
            info.type = tarfile.DIRTYPE
            out.write(info.tobuf(tarfile.PAX_FORMAT))
            continue
        info.size = status.st_size
        out.write(info.tobuf(tarfile.PAX_FORMAT))
        left = info.size
        for block in read(fd, info.size):
            out.write(block)
            left -= len(block)
            yield from out.full()
        while left:
            out.write(bytes(min(left, BLOCK)))
            left -= min(left, BLOCK)
            yield from out.full()
        out.write(bytes(-info.size % tarfile.BLOCKSIZE))
    out.write(bytes(2 * tarfile.BLOCKSIZE))
    out.write(bytes(-out.total % tarfile.RECORDSIZE))
    yield out.take()


def zip_blocks(root: Root, top: int, name: str) -> Iterator[bytes]:
    """The blocks of a zip, lightly compressed, of the open directory `top`; as `tar_blocks`."""
    out = _BlockBuffer()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path, fd, status in walk_entries(root, top, name, ZIP_PATH_MAX):
            info = zipfile.ZipInfo(path, _zip_date(status.st_mtime))
            info.external_attr = (status.st_mode & 0o170777) << 16
            if stat.S_ISDIR(status.st_mode):
                info.filename += "/"
                info.external_attr |= 0x10  # the MS-DOS attribute of a directory
                archive.writestr(info, b"")
                continue
            info.compress_type = zipfile.ZIP_DEFLATED
            info._compresslevel = 1  # type: ignore[attr-defined] # public from Python 3.13 on
            with archive.open(info, "w", force_zip64=True) as entry:
                for block in read(fd, status.st_size):
                    entry.write(block)
                    yield from out.full()
    yield out.take()


def walk_entries(root: Root, top: int, name: str, path_max: int = sys.maxsize) -> Iterator[Entry]:
    """The files and directories below `top`, each directory before its entries.

    The descriptors are valid until the next step. Paths of more than `path_max` bytes are skipped.
    At the end the log reports the number of entries that could not be read, and the first one.
    """
    skipped = _SkippedEntries(name)
    try:
        with Walker(top) as at:
            yield name, at.fd, os.fstat(at.fd)
            # For each directory on the path, the names still to visit.
            pending = [_entry_names(at.fd)]
            while True:
                if not pending[-1]:
                    if not at.names:
                        return
                    at.leave()
                    del pending[len(at.names) + 1 :]
                    continue
                each = pending[-1].pop()
                path = "/".join([name, *at.names, each])
                try:
                    if len(path) > path_max // 4 and len(os.fsencode(path)) > path_max:
                        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
                    fd = root.open_from(at.fd, [each], os.O_RDONLY | os.O_NOFOLLOW)
                except OSError as error:
                    skipped.add(path, error)
                    continue
                status = os.fstat(fd)
                if stat.S_ISDIR(status.st_mode):
                    at.enter(each, fd)
                    yield path, fd, status
                    pending.append(_entry_names(fd))
                    continue
                try:
                    yield path, fd, status
                finally:
                    os.close(fd)
    finally:
        skipped.log()


def _entry_names(fd: int) -> list[str]:
    """The names of the files and directories in the open directory, in reverse order."""
    with os.scandir(fd) as found:
        return sorted(
            (
                each.name
                for each in found
                if is_valid_name(each.name)
                and (each.is_dir(follow_symlinks=False) or _is_file(each))
            ),
            reverse=True,
        )


class _SkippedEntries:
    """The entries that an archive lacks because they could not be read."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.count = 0
        self.first = ""

    def add(self, path: str, error: OSError) -> None:
        if error.errno in _VANISHED:
            return
        self.count += 1
        self.first = self.first or f"{path} ({os.strerror(error.errno or 0)})"

    def log(self) -> None:
        """Log one line for the whole archive."""
        if self.count:
            log.warning(
                "an archive of %s lacks %d entries that cannot be read; the first is %s",
                self.name,
                self.count,
                self.first,
            )


def _is_file(each: os.DirEntry[str]) -> bool:
    return each.is_file(follow_symlinks=False)


def read(fd: int, size: int) -> Iterator[bytes]:
    """Blocks of `size` bytes in all, or fewer if the file has become shorter."""
    while size:
        block = os.read(fd, min(size, BLOCK))
        if not block:
            return
        size -= len(block)
        yield block


def _zip_date(seconds: float) -> tuple[int, int, int, int, int, int]:
    """The time as a zip stores it: local time, from 1980 to 2107."""
    at = time.localtime(min(max(seconds, MIN_TIMESTAMP), MAX_TIMESTAMP))
    if at.tm_year < 1980:
        return 1980, 1, 1, 0, 0, 0
    if at.tm_year > 2107:
        return 2107, 12, 31, 23, 59, 59
    return at.tm_year, at.tm_mon, at.tm_mday, at.tm_hour, at.tm_min, at.tm_sec


class _BlockBuffer(io.RawIOBase):
    """A file object without seek that collects what an archive writes, to be taken in blocks."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.total = 0

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def write(self, data: bytes) -> int:  # type: ignore[override]
        size = memoryview(data).nbytes
        self.data += data
        self.total += size
        return size

    def take(self) -> bytes:
        data = bytes(self.data)
        self.data.clear()
        return data

    def full(self) -> Iterator[bytes]:
        """Yield a block if there are enough bytes for one."""
        if len(self.data) >= BLOCK:
            yield self.take()
