"""The file that a bound Unix socket has at its path (unix(7))."""

from __future__ import annotations

import socket
import stat

# Not from `os`: tools that look for blocking calls (blockbuster) replace the functions there, maybe
# before this module is imported, and allow these to asyncio's create_unix_server only.
from posix import remove, unlink
from posix import stat as stat_path
from typing import Any


def is_abstract(path: Any) -> bool:
    """Whether the path is a name in the abstract namespace, which has no file.

    Raises IndexError for an empty path, as asyncio does: bind(2) would choose an abstract name.
    """
    # The first item of bytes is an int. A comparison of bytes and str would fail with python -bb.
    return path[0] in (0, "\0")


def remove_socket_file(path: Any, *, only_unused: bool = False) -> None:
    """Remove a socket file, so that the path can be bound again.

    Other files and abstract names are not touched. With `only_unused` a socket file on which a
    process listens stays, too. Raises OSError.
    """
    if is_abstract(path):
        return
    try:
        if stat.S_ISSOCK(stat_path(path).st_mode) and not (only_unused and _is_used(path)):
            remove(path)
    except FileNotFoundError:
        pass


def remove_file_of_inode(path: Any, inode: int) -> None:
    """Remove the file at the path if it has this inode number. Raises OSError."""
    try:
        if stat_path(path).st_ino == inode:
            unlink(path)
    except FileNotFoundError:
        pass


def _is_used(path: Any) -> bool:
    """Whether a process listens on the socket file. Raises OSError if that is unknown."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return False
    return True
