"""Put a written file in its place: check the preconditions, sync, rename, sync the directory.

Blocking functions, for worker threads.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from noria.fileserver import syscalls
from noria.http.conditional import etag, require_preconditions
from noria.http.messages import Headers, HTTPException


def commit(
    source_directory: int,
    source: str,
    fd: int,
    directory: int,
    name: str,
    conditions: Headers,
    overwrite: bool,
) -> tuple[bool, str, int]:
    """Sync the file `fd`, rename it from `source` to `name`, and sync the directories.

    It replaces a file only if `check_replaceable` allows that at the moment of the rename. Returns
    (whether the name is new, entity tag, bytes of the file that was replaced). Raises
    HTTPException, OSError.
    """
    os.fsync(fd)
    with locked(directory):
        old = check_replaceable(directory, name, conditions, overwrite)
        if old is None:
            try:
                syscalls.rename_new(source_directory, source, directory, name)
            except FileExistsError:  # made by a program that does not take the lock
                check_replaceable(directory, name, conditions, overwrite=False)
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


def check_replaceable(
    directory: int, name: str, conditions: Headers, overwrite: bool
) -> os.stat_result | None:
    """Return the status of the file that one stored as `name` would replace; None if there is none.

    Replacing needs `overwrite`, or an If-Match with the file's entity tag ("*" is not enough).
    Raises HTTPException 412 if a condition fails and 409 if the file may not be replaced; OSError
    if it is not a file.
    """
    old = lstat_in(directory, name)
    require_preconditions(conditions, old)
    if old is None:
        return None
    if stat.S_ISDIR(old.st_mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
    tag = conditions.get("if-match").strip()
    if not overwrite and tag in ("", "*"):
        raise HTTPException(
            409,
            "A file with that name exists. To replace it, send its ETag in If-Match, or start the "
            "server with --overwrite.",
        )
    if not (stat.S_ISREG(old.st_mode) or stat.S_ISLNK(old.st_mode)):
        raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
    return old


def lstat_in(directory: int, name: str) -> os.stat_result | None:
    """lstat(2) of a name in an open directory; None if it does not exist."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


@contextmanager
def locked(directory: int) -> Iterator[None]:
    """Hold the lock for changing names in `directory`, across all serving processes: flock(2)."""
    fcntl.flock(directory, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(directory, fcntl.LOCK_UN)
