"""Where a download may be put: what is no regular file is written into, and never replaced."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import time
from pathlib import Path

from noria.transfer.errors import Failure

WAIT = 0.05  # seconds between two looks whether somebody reads a FIFO


def followed(target: Path) -> Path:
    """The file that a symbolic link leads to; else the path as it is.

    Raises Failure if it leads to nothing: a file would come to be where nobody named one.
    """
    if not target.is_symlink():
        return target
    if not os.path.exists(target):
        raise Failure(f"{target} is a symbolic link that leads to nothing")
    return target.resolve()


def special(target: Path) -> bool:
    """Whether something is there that is no regular file, by itself or through a symbolic link."""
    try:
        return not stat.S_ISREG(os.stat(target).st_mode)
    except OSError:
        return False


async def opened(target: Path, overwrite: bool, timeout: float) -> int:
    """A descriptor that writes to a device or a FIFO, whose reader has `timeout` seconds to come.

    Raises Failure for what cannot be written to, or (a disk) would be lost; OSError.
    """
    mode = os.stat(target).st_mode
    if stat.S_ISDIR(mode):
        raise Failure(
            f"{target} is a directory here; -r fetches a directory, -o FILE gives another name"
        )
    if stat.S_ISSOCK(mode):
        raise Failure(f"{target} is a socket, which cannot be written to as a file is")
    if stat.S_ISBLK(mode) and not overwrite:
        raise Failure(f"{target} is a disk; --overwrite writes over what is on it")
    end = time.monotonic() + timeout
    while True:
        try:  # without O_NONBLOCK it would wait for the reader in open(2), and Ctrl-C with it
            fd = os.open(target, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError as error:
            if not (error.errno == errno.ENXIO and stat.S_ISFIFO(mode)):
                raise
            if time.monotonic() > end:
                raise Failure(f"{target} is a FIFO that nobody reads") from None
            await asyncio.sleep(WAIT)
        else:
            os.set_blocking(fd, True)
            return fd
