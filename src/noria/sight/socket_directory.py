"""Where agents listen: a directory of the user with one socket for each watched process."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
from pathlib import Path

SUFFIX = ".sock"


class UnsafeDirectory(OSError):
    """The path of the directory for sockets is no directory, or another user's."""


def socket_directory() -> Path:
    """Return ``$XDG_RUNTIME_DIR/noria``, or ``/tmp/noria-UID`` if that cannot be used."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime) and os.access(runtime, os.W_OK | os.X_OK):
        return Path(runtime, "noria")
    return Path(f"/tmp/noria-{os.getuid()}")


def make_socket_directory() -> Path:
    """Create the directory with mode 0700 if it is not there, and return it.

    One with another mode is set to 0700. Raises UnsafeDirectory if it is a symbolic link or no
    directory, or if another user owns it; OSError if it cannot be created.
    """
    path = socket_directory()
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise UnsafeDirectory(f"{path} is not a directory: remove it, or set XDG_RUNTIME_DIR")
    if found.st_uid != os.getuid():
        raise UnsafeDirectory(
            f"{path} belongs to user {found.st_uid}: set XDG_RUNTIME_DIR to a directory of yours"
        )
    if found.st_mode & 0o077:
        os.chmod(path, 0o700)
    return path


def socket_path(pid: int) -> Path:
    """Return the path of the socket of a process."""
    return socket_directory() / f"{pid}{SUFFIX}"


def remove_stale_sockets(directory: Path) -> None:
    """Remove the sockets of processes that do not exist any more."""
    for path in directory.glob("*" + SUFFIX):
        if path.stem.isdecimal() and not os.path.exists(f"/proc/{path.stem}"):
            with contextlib.suppress(OSError):
                path.unlink()


def watched_processes() -> dict[int, Path]:
    """Return the sockets of this user's watched processes that are alive, by process id."""
    found = {}
    with contextlib.suppress(OSError):
        for path in sorted(socket_directory().glob("*" + SUFFIX)):
            if path.stem.isdecimal() and os.path.exists(f"/proc/{path.stem}"):
                found[int(path.stem)] = path
    return found


def peer(connection: socket.socket) -> tuple[int, int]:
    """Return (process id, user id) of the other end of a Unix socket (unix(7))."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid, uid, _ = struct.unpack("3i", credentials)
    return pid, uid
