"""Remove, move, make directories: blocking, for worker threads. All raise HTTPException."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from noria.fileserver import syscalls
from noria.fileserver.request_paths import DEPTH_MAX, directory_of, names, require_depth
from noria.fileserver.root import Root, to_http_exception
from noria.fileserver.storage import locked, status_of, sweep_directory
from noria.fileserver.tree_walk import height
from noria.http.conditional import require_preconditions
from noria.http.messages import Headers, HTTPException

ELSEWHERE = (  # 502: RFC 4918, 9.9.4
    "The new place is on another file system, to which nothing can be renamed: fetch it, and send "
    "it there."
)


def remove(root: Root, path: str, conditions: Headers) -> int:
    """Removes a file, a link itself, or an empty directory; gives the bytes that were freed."""
    with root.parent(path) as (directory, name), locked(directory):
        status = status_of(directory, name)
        require_preconditions(conditions, status)
        if status is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        freed = 0
        if stat.S_ISDIR(status.st_mode):
            inside = root.open(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                sweep_directory(inside)
            finally:
                os.close(inside)
            os.rmdir(name, dir_fd=directory)
        elif path.endswith("/"):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        elif stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode):
            os.unlink(name, dir_fd=directory)
            freed = status.st_size
        else:
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        os.fsync(directory)
        return freed


def make_directory(root: Root, path: str) -> None:
    """Makes one whose own directory exists; 405 if there is something already (RFC 4918, 9.3.1)."""
    require_depth(path)
    if not names(path):
        raise HTTPException(
            405, "The served directory exists already.", headers=[("Allow", "GET, HEAD")]
        )
    with root.parent(path) as (directory, name):
        try:
            os.mkdir(name, dir_fd=directory)
        except FileExistsError:
            raise HTTPException(
                405, "There is something of that name already.", headers=[("Allow", "GET, HEAD")]
            ) from None
        os.fsync(directory)


def make_parents(root: Root, path: str) -> list[str]:
    """Makes the directories that are missing above `path`; gives them, outermost first."""
    made: list[str] = []
    above = directory_of(path)
    parts = names(above)
    for count in range(1, len(parts) + 1):
        each = "/" + "/".join(parts[:count]) + "/"
        with root.parent(each) as (directory, name):
            try:
                os.mkdir(name, dir_fd=directory)
            except FileExistsError:
                continue
            os.fsync(directory)
            made.append(each)
    return made


def move(root: Root, path: str, target: str, conditions: Headers, overwrite: bool) -> bool:
    """Renames; gives whether `target` is new. A file is replaced only with `overwrite`.

    412 if there is one and it may not be replaced, 502 to another file system (RFC 4918, 9.9.4).
    """
    if (target.rstrip("/") + "/").startswith(path.rstrip("/") + "/"):
        raise HTTPException(409, "Nothing can be moved onto or into itself.")
    _require_depth(root, path, target)
    with root.parent(path) as (source, name), root.parent(target) as (directory, new):
        with both_locked(source, directory):
            status = status_of(source, name)
            require_preconditions(conditions, status)
            if status is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            if not stat.S_ISDIR(status.st_mode) and path.endswith("/"):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            old = status_of(directory, new)
            if old is not None and not overwrite:
                raise HTTPException(
                    412,
                    "There is something of the new name; to overwrite it takes the header "
                    '"Overwrite: T" and a server with --overwrite.',
                )
            try:
                if old is None:
                    syscalls.rename_new(source, name, directory, new)
                elif stat.S_ISDIR(status.st_mode) or not stat.S_ISREG(old.st_mode):
                    raise HTTPException(409, "Only a file can be overwritten, and only by a file.")
                else:
                    os.replace(name, new, src_dir_fd=source, dst_dir_fd=directory)
            except FileExistsError:
                raise HTTPException(412, "There is something of the new name by now.") from None
            except OSError as error:
                if error.errno == errno.EXDEV:
                    raise HTTPException(502, ELSEWHERE) from None
                if error.errno == errno.EINVAL:
                    raise HTTPException(409, "A directory cannot be moved into itself.") from None
                raise
        os.fsync(directory)
        os.fsync(source)
        return old is None


def _require_depth(root: Root, path: str, target: str) -> None:
    """Raises HTTPException 403 if what is moved down would be too deep at `target`.

    The tree at `path` is measured without a lock: others may make it deeper meanwhile, which all
    that walks through trees can deal with.
    """
    depth = len(names(target))
    if depth <= len(names(path)):
        return  # so what is too deep already can be moved up
    require_depth(target)
    try:
        top = root.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except HTTPException:
        return  # not a directory, or one that cannot be read
    try:
        require_depth(target, height(top, DEPTH_MAX - depth))
    except OSError as error:
        raise to_http_exception(error) from None
    finally:
        os.close(top)


@contextmanager
def both_locked(one: int, other: int) -> Iterator[None]:
    """Two directories, always in the same order, or the one that both are."""
    found = {}
    for fd in (one, other):
        status = os.fstat(fd)
        found[status.st_dev, status.st_ino] = fd
    with ExitStack() as stack:
        for _, fd in sorted(found.items()):
            stack.enter_context(locked(fd))
        yield
