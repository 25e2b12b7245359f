"""Remove, move, make directories: blocking, for worker threads. All raise HTTPException."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from noria.fileserver import syscalls
from noria.fileserver.commit import locked, lstat_in
from noria.fileserver.request_paths import MAX_DEPTH, parent_directory, require_depth, split_path
from noria.fileserver.root import Root, to_http_exception
from noria.fileserver.stale_files import remove_stale_in
from noria.fileserver.tree_walk import tree_height
from noria.http.conditional import require_preconditions
from noria.http.messages import Headers, HTTPException

OTHER_FILE_SYSTEM = (  # 502: RFC 4918, 9.9.4
    "The new path is on another file system, which a rename cannot reach: download the file and "
    "upload it there."
)


def remove(root: Root, path: str, conditions: Headers) -> os.stat_result:
    """Remove a file, a symlink, or an empty directory; return the status that it had."""
    with root.parent(path) as (directory, name), locked(directory):
        status = lstat_in(directory, name)
        require_preconditions(conditions, status)
        if status is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        if stat.S_ISDIR(status.st_mode):
            inside = root.open(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                remove_stale_in(inside)
            finally:
                os.close(inside)
            os.rmdir(name, dir_fd=directory)
        elif path.endswith("/"):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        elif stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode):
            os.unlink(name, dir_fd=directory)
        else:
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        os.fsync(directory)
        return status


def make_directory(root: Root, path: str) -> None:
    """Create a directory. Raises HTTPException 405 if the path exists (RFC 4918, 9.3.1)."""
    require_depth(path)
    if not split_path(path):
        raise HTTPException(
            405, "The served directory already exists.", headers=[("Allow", "GET, HEAD")]
        )
    with root.parent(path) as (directory, name):
        try:
            os.mkdir(name, dir_fd=directory)
        except FileExistsError:
            raise HTTPException(
                405,
                "A file or directory with that name already exists.",
                headers=[("Allow", "GET, HEAD")],
            ) from None
        os.fsync(directory)


def make_parents(root: Root, path: str) -> Iterator[str]:
    """Create the missing directories above `path`; yield their paths, outermost first."""
    above = parent_directory(path)
    parts = split_path(above)
    for count in range(1, len(parts) + 1):
        each = "/" + "/".join(parts[:count]) + "/"
        with root.parent(each) as (directory, name):
            try:
                os.mkdir(name, dir_fd=directory)
            except FileExistsError:
                continue
            os.fsync(directory)
        yield each


def move(
    root: Root, path: str, target: str, conditions: Headers, overwrite: bool
) -> tuple[os.stat_result, os.stat_result | None]:
    """Rename; return the status of what was moved, and of the file that it replaced, or None.

    A file is replaced only with `overwrite`.

    Raises HTTPException 412 if the target exists and may not be replaced, 502 if it is on another
    file system (RFC 4918, 9.9.4).
    """
    if (target.rstrip("/") + "/").startswith(path.rstrip("/") + "/"):
        raise HTTPException(409, "A file or directory cannot be moved onto or into itself.")
    _require_depth(root, path, target)
    with root.parent(path) as (source, name), root.parent(target) as (directory, new):
        with both_locked(source, directory):
            status = lstat_in(source, name)
            require_preconditions(conditions, status)
            if status is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            if not stat.S_ISDIR(status.st_mode) and path.endswith("/"):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            old = lstat_in(directory, new)
            if old is not None and not overwrite:
                raise HTTPException(
                    412,
                    "The destination exists. To replace it, start the server with --overwrite and "
                    'send the header "Overwrite: T".',
                )
            try:
                if old is None:
                    syscalls.rename_new(source, name, directory, new)
                elif stat.S_ISDIR(status.st_mode) or not stat.S_ISREG(old.st_mode):
                    raise HTTPException(409, "Only a file can be replaced, and only by a file.")
                else:
                    os.replace(name, new, src_dir_fd=source, dst_dir_fd=directory)
            except FileExistsError:
                raise HTTPException(412, "The destination was created meanwhile.") from None
            except OSError as error:
                if error.errno == errno.EXDEV:
                    raise HTTPException(502, OTHER_FILE_SYSTEM) from None
                if error.errno == errno.EINVAL:
                    raise HTTPException(409, "A directory cannot be moved into itself.") from None
                raise
        os.fsync(directory)
        os.fsync(source)
        return status, old


def _require_depth(root: Root, path: str, target: str) -> None:
    """Raise HTTPException 403 if the tree at `path` would be too deep at `target`.

    The tree is measured without a lock. Another process may make it deeper meanwhile; the code that
    walks through trees can handle that.
    """
    depth = len(split_path(target))
    if depth <= len(split_path(path)):
        return  # a tree that is too deep can be moved up
    require_depth(target)
    try:
        top = root.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except HTTPException:
        return  # not a directory, or not readable
    try:
        require_depth(target, tree_height(top, MAX_DEPTH - depth))
    except OSError as error:
        raise to_http_exception(error) from None
    finally:
        os.close(top)


@contextmanager
def both_locked(one: int, other: int) -> Iterator[None]:
    """Lock two directories, always in the same order; they may be the same one."""
    found = {}
    for fd in (one, other):
        status = os.fstat(fd)
        found[status.st_dev, status.st_ino] = fd
    with ExitStack() as stack:
        for _, fd in sorted(found.items()):
            stack.enter_context(locked(fd))
        yield
