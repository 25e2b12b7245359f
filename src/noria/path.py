"""Functions of os.path that may wait for a disk, as coroutines: `await noria.path.exists(path)`."""

from __future__ import annotations

import os
import stat as _stat
from typing import Any

from noria.files.engine import current
from noria.files.engine_base import PathLike

__all__ = [
    "abspath",
    "exists",
    "getatime",
    "getctime",
    "getmtime",
    "getsize",
    "isdir",
    "isfile",
    "islink",
    "ismount",
    "lexists",
    "realpath",
    "samefile",
    "sameopenfile",
]

File = PathLike | int


async def _stat_path(path: File, follow: bool = True) -> os.stat_result:
    if isinstance(path, int):
        return await current().run_in_thread(os.stat, path)
    return await current().stat(os.fspath(path), follow)


async def _mode(path: File, follow: bool = True) -> int:
    """st_mode; 0 if the path does not exist or is invalid."""
    try:
        return (await _stat_path(path, follow)).st_mode
    except (OSError, ValueError):
        return 0


async def exists(path: File) -> bool:
    return bool(await _mode(path))


async def lexists(path: PathLike) -> bool:
    return bool(await _mode(path, False))


async def isfile(path: File) -> bool:
    return _stat.S_ISREG(await _mode(path))


async def isdir(path: File) -> bool:
    return _stat.S_ISDIR(await _mode(path))


async def islink(path: PathLike) -> bool:
    return _stat.S_ISLNK(await _mode(path, False))


async def getsize(path: File) -> int:
    return (await _stat_path(path)).st_size


async def getatime(path: File) -> float:
    return (await _stat_path(path)).st_atime


async def getmtime(path: File) -> float:
    return (await _stat_path(path)).st_mtime


async def getctime(path: File) -> float:
    return (await _stat_path(path)).st_ctime


async def samefile(f1: File, f2: File) -> bool:
    return os.path.samestat(await _stat_path(f1), await _stat_path(f2))


async def sameopenfile(fp1: int, fp2: int) -> bool:
    return await current().run_in_thread(os.path.sameopenfile, fp1, fp2)


async def ismount(path: Any) -> bool:
    return await current().run_in_thread(os.path.ismount, path)


async def abspath(path: Any) -> Any:
    return await current().run_in_thread(os.path.abspath, path)


async def realpath(path: Any, *, strict: bool = False) -> Any:
    return await current().run_in_thread(lambda: os.path.realpath(path, strict=strict))
