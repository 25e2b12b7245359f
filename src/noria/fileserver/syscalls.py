"""System calls that the os module lacks: openat2(2) and renameat2(2)."""

from __future__ import annotations

import ctypes
import errno
import os
import stat

from noria._core.files.openat2 import openat2

__all__ = ["openat2", "rename_new"]

RESOLVE_NO_XDEV = 0x01  # EXDEV at any mount, also of the same file system
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_BENEATH = 0x08
RESOLVE_CACHED = 0x20  # Linux 5.12: EAGAIN if the lookup would read from the disk

RENAME_NOREPLACE = 1

_libc = ctypes.CDLL(None, use_errno=True)
_renameat2 = getattr(_libc, "renameat2", None)  # glibc 2.28


def rename_new(source_fd: int, source: str, target_fd: int, target: str) -> None:
    """Rename unless `target` exists. Names are relative to the open directories.

    If the file system does not support RENAME_NOREPLACE (rename(2)), a file is linked to `target`
    first, which fails too if that exists. Directories cannot be linked: one is renamed if `target`
    does not exist, and an empty directory created at that moment is replaced.

    Raises OSError, FileExistsError if `target` exists.
    """
    if _renameat2 is not None:
        done = _renameat2(
            ctypes.c_int(source_fd),
            ctypes.c_char_p(os.fsencode(source)),
            ctypes.c_int(target_fd),
            ctypes.c_char_p(os.fsencode(target)),
            ctypes.c_uint(RENAME_NOREPLACE),
        )
        if done == 0:
            return
        number = ctypes.get_errno()
        if number not in (errno.EINVAL, errno.ENOSYS):
            raise OSError(number, os.strerror(number), source, None, target)
    if stat.S_ISDIR(os.stat(source, dir_fd=source_fd, follow_symlinks=False).st_mode):
        if exists(target_fd, target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
        os.rename(source, target, src_dir_fd=source_fd, dst_dir_fd=target_fd)
        return
    os.link(source, target, src_dir_fd=source_fd, dst_dir_fd=target_fd, follow_symlinks=False)
    os.unlink(source, dir_fd=source_fd)


def exists(directory: int, name: str) -> bool:
    """Whether the name exists in the directory, including a dangling symlink."""
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
