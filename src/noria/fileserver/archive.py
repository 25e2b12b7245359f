"""A directory as a tar or zip that is made while it is sent; nothing is kept but a block.

Links are neither followed nor kept, nor is what is neither file nor directory. A file that
becomes shorter meanwhile is filled up with zeros in a tar, whose header is gone by then; one that
grows ends where it ended when it was opened. What may not be read is left out too, and the log says
so: the answer has begun by then.
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

from noria.fileserver.request_paths import usable
from noria.fileserver.root import Root
from noria.fileserver.tree_walk import Walker
from noria.http.conditional import MAX_TIMESTAMP, MIN_TIMESTAMP

log = logging.getLogger("noria")

BLOCK = 256 * 1024  # bytes read, and at least given, at a time
ZIP_PATH_MAX = 0xFFFF - 1  # bytes: the length has 16 bits, and a directory ends in "/"

# What is gone, or became a link or a device, since its directory was listed.
_CHANGED = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO)

Found = tuple[str, int, os.stat_result]  # path in the archive, descriptor, status


def tar(root: Root, top: int, name: str) -> Iterator[bytes]:
    """The blocks of a tar (pax) of the open directory `top`, all beneath `name` in it."""
    out = _Gathered()
    for path, fd, status in tree(root, top, name):
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


def zipped(root: Root, top: int, name: str) -> Iterator[bytes]:
    """The blocks of a zip, lightly compressed, of the open directory `top`, beneath `name`."""
    out = _Gathered()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path, fd, status in tree(root, top, name, ZIP_PATH_MAX):
            info = zipfile.ZipInfo(path, _zip_date(status.st_mtime))
            info.external_attr = (status.st_mode & 0o170777) << 16
            if stat.S_ISDIR(status.st_mode):
                info.filename += "/"
                info.external_attr |= 0x10  # MS-DOS's mark of a directory
                archive.writestr(info, b"")
                continue
            info.compress_type = zipfile.ZIP_DEFLATED
            info._compresslevel = 1  # type: ignore[attr-defined] # public from Python 3.13 on
            with archive.open(info, "w", force_zip64=True) as entry:
                for block in read(fd, status.st_size):
                    entry.write(block)
                    yield from out.full()
    yield out.take()


def tree(root: Root, top: int, name: str, path_max: int = sys.maxsize) -> Iterator[Found]:
    """What is beneath `top`, directories before what is in them; descriptors are closed here.

    Paths of more than `path_max` bytes are skipped. At the end the log reports how many could not
    be read, and the first of them.
    """
    unread = _Unread(name)
    try:
        with Walker(top) as at:
            yield name, at.fd, os.fstat(at.fd)
            pending = [_inside(at.fd)]  # for each directory on the way, what is still to come
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
                    unread.add(path, error)
                    continue
                status = os.fstat(fd)
                if stat.S_ISDIR(status.st_mode):
                    at.enter(each, fd)
                    yield path, fd, status
                    pending.append(_inside(fd))
                    continue
                try:
                    yield path, fd, status
                finally:
                    os.close(fd)
    finally:
        unread.tell()


def _inside(fd: int) -> list[str]:
    """The names of the files and directories in the open directory, the last first."""
    with os.scandir(fd) as found:
        return sorted(
            (
                each.name
                for each in found
                if usable(each.name) and (each.is_dir(follow_symlinks=False) or _is_file(each))
            ),
            reverse=True,
        )


class _Unread:
    """What an archive is without."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.count = 0
        self.first = ""

    def add(self, path: str, error: OSError) -> None:
        if error.errno in _CHANGED:
            return
        self.count += 1
        self.first = self.first or f"{path} ({os.strerror(error.errno or 0)})"

    def tell(self) -> None:
        """One line for the whole archive."""
        if self.count:
            log.warning(
                "an archive of %s is without what cannot be read, %d in all; the first is %s",
                self.name,
                self.count,
                self.first,
            )


def _is_file(each: os.DirEntry[str]) -> bool:
    return each.is_file(follow_symlinks=False)


def read(fd: int, size: int) -> Iterator[bytes]:
    """`size` bytes, or fewer if the file has become shorter."""
    while size:
        block = os.read(fd, min(size, BLOCK))
        if not block:
            return
        size -= len(block)
        yield block


def _zip_date(seconds: float) -> tuple[int, int, int, int, int, int]:
    """What a zip can say: 1980 to 2107, in local time."""
    at = time.localtime(min(max(seconds, MIN_TIMESTAMP), MAX_TIMESTAMP))
    if at.tm_year < 1980:
        return 1980, 1, 1, 0, 0, 0
    if at.tm_year > 2107:
        return 2107, 12, 31, 23, 59, 59
    return at.tm_year, at.tm_mon, at.tm_mday, at.tm_hour, at.tm_min, at.tm_sec


class _Gathered(io.RawIOBase):
    """Where an archive is written to, and taken from in blocks; it cannot seek."""

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
        """A block, if there is enough for one."""
        if len(self.data) >= BLOCK:
            yield self.take()
