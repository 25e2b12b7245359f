"""Remove the partial files that a killed process left behind.

Blocking functions, for worker threads.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterable

from noria.fileserver.partial_file import SUFFIX
from noria.fileserver.request_paths import RESERVED_NAME_PREFIX
from noria.fileserver.root import Root
from noria.fileserver.tree_walk import walk_directories

STALE_AFTER = 60.0  # seconds without a change after which an unlocked partial file is removed


def remove_stale(root: Root, stopped: Callable[[], bool] = bool) -> int:
    """Remove stale partial files in all directories; return their number.

    It stops as soon as `stopped()` is true. Raises OSError as `walk_directories` does.
    """
    count = 0
    for walker, entries in walk_directories(root.fd):
        if stopped():
            break
        count += _remove_names(walker.fd, (entry.name for entry in entries))
    return count


def remove_stale_in(directory: int) -> int:
    """Remove stale partial files in one open directory; return their number."""
    return _remove_names(directory, os.listdir(directory))


def _remove_names(directory: int, names: Iterable[str]) -> int:
    partial_files = (
        name for name in names if name.startswith(RESERVED_NAME_PREFIX) and name.endswith(SUFFIX)
    )
    return sum(_remove(directory, name) for name in partial_files)


def _remove(directory: int, name: str) -> bool:
    try:
        fd = os.open(
            name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory
        )
    except OSError:
        return False
    try:
        # If the clock was set back, the file's time is in the future: only the lock shows its use.
        if abs(time.time() - os.fstat(fd).st_mtime) < STALE_AFTER:
            return False
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(name, dir_fd=directory)
    except OSError:
        return False  # in use
    finally:
        os.close(fd)
    return True
