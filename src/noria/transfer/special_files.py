"""Download targets that are not regular files: they are written into, and never replaced."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import time
from pathlib import Path

from noria.transfer.errors import TransferError

FIFO_POLL_SECONDS = 0.05  # between two attempts to open a FIFO without a reader


def resolve_link(target: Path) -> Path:
    """Return the file that a symbolic link leads to; another path as it is.

    Raises TransferError for a broken link: the file would be created in an unexpected place.
    """
    if not target.is_symlink():
        return target
    if not os.path.exists(target):
        raise TransferError(f"{target} is a broken symbolic link")
    return target.resolve()


def is_special(target: Path) -> bool:
    """Whether the path, or what it links to, exists and is not a regular file."""
    try:
        return not stat.S_ISREG(os.stat(target).st_mode)
    except OSError:
        return False


async def open_special(target: Path, overwrite: bool, timeout: float) -> int:
    """Return a descriptor that writes to a device or a FIFO.

    A FIFO's reader has `timeout` seconds to open it. Raises TransferError for what cannot be
    written to, or (a disk, without `overwrite`) must not be; OSError.
    """
    mode = os.stat(target).st_mode
    if stat.S_ISDIR(mode):
        raise TransferError(
            f"{target} is a directory here; -r fetches a directory, -o FILE gives another name"
        )
    if stat.S_ISSOCK(mode):
        raise TransferError(f"{target} is a socket, which cannot be written to like a file")
    if stat.S_ISBLK(mode) and not overwrite:
        raise TransferError(f"{target} is a disk; --overwrite writes over its contents")
    deadline = time.monotonic() + timeout
    while True:
        try:  # without O_NONBLOCK, open(2) would block until there is a reader, and block Ctrl-C
            fd = os.open(target, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError as error:
            if not (error.errno == errno.ENXIO and stat.S_ISFIFO(mode)):
                raise
            if time.monotonic() > deadline:
                raise TransferError(f"{target} is a FIFO without a reader") from None
            await asyncio.sleep(FIFO_POLL_SECONDS)
        else:
            os.set_blocking(fd, True)
            return fd
