"""The functions of os that wait for a disk, as coroutines: `await noria.os.stat(path)`.

Arguments, results and errors are those of os. Which are done by io_uring and which by threads
stands in docs/files.md. Cancelled, what changes something goes to its end or does not begin, and
the CancelledError says which: `result` and `error`.
"""

from __future__ import annotations

import errno as _errno
import os as _os
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial, wraps
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from noria import path
from noria.files.engine import PathLike, current

__all__ = [
    "access",
    "chmod",
    "chown",
    "getcwd",
    "link",
    "listdir",
    "lstat",
    "makedirs",
    "mkdir",
    "path",
    "readlink",
    "remove",
    "removedirs",
    "rename",
    "renames",
    "replace",
    "rmdir",
    "scandir",
    "sendfile",
    "stat",
    "statvfs",
    "symlink",
    "truncate",
    "unlink",
    "utime",
    "walk",
]

P = ParamSpec("P")
T = TypeVar("T")


def _asking(function: Callable[P, T]) -> Callable[P, Any]:
    """In a thread; given up, it is left to itself."""

    @wraps(function)
    async def run(*arguments: P.args, **more: P.kwargs) -> T:
        return await current().call(partial(function, *arguments, **more))

    return run


def _changing(function: Callable[P, T]) -> Callable[P, Any]:
    """In a thread; given up, it is waited for."""

    @wraps(function)
    async def run(*arguments: P.args, **more: P.kwargs) -> T:
        return await current().finished(partial(function, *arguments, **more))

    return run


access = _asking(_os.access)
getcwd = _asking(_os.getcwd)
listdir = _asking(_os.listdir)
readlink = _asking(_os.readlink)
statvfs = _asking(_os.statvfs)
chmod = _changing(_os.chmod)
chown = _changing(_os.chown)
link = _changing(_os.link)
removedirs = _changing(_os.removedirs)
renames = _changing(_os.renames)
sendfile = _changing(_os.sendfile)
symlink = _changing(_os.symlink)
truncate = _changing(_os.truncate)
utime = _changing(_os.utime)


async def stat(
    path: PathLike | int, *, dir_fd: int | None = None, follow_symlinks: bool = True
) -> _os.stat_result:
    if isinstance(path, int) or dir_fd is not None:
        ask = partial(_os.stat, path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)
        return await current().call(ask)
    return await current().stat(_os.fspath(path), follow_symlinks)


async def lstat(path: PathLike, *, dir_fd: int | None = None) -> _os.stat_result:
    return await stat(path, dir_fd=dir_fd, follow_symlinks=False)


async def rename(
    src: PathLike,
    dst: PathLike,
    *,
    src_dir_fd: int | None = None,
    dst_dir_fd: int | None = None,
) -> None:
    if src_dir_fd is None and dst_dir_fd is None:
        return await current().rename(_os.fspath(src), _os.fspath(dst))
    change = partial(_os.rename, src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
    return await current().finished(change)


replace = rename  # on Linux they are one


async def unlink(path: PathLike, *, dir_fd: int | None = None) -> None:
    if dir_fd is None:
        return await current().unlink(_os.fspath(path))
    return await current().finished(partial(_os.unlink, path, dir_fd=dir_fd))


remove = unlink


async def mkdir(path: PathLike, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
    if dir_fd is None:
        return await current().mkdir(_os.fspath(path), mode)
    return await current().finished(partial(_os.mkdir, path, mode, dir_fd=dir_fd))


async def rmdir(path: PathLike, *, dir_fd: int | None = None) -> None:
    if dir_fd is None:
        return await current().rmdir(_os.fspath(path))
    return await current().finished(partial(_os.rmdir, path, dir_fd=dir_fd))


async def makedirs(name: PathLike, mode: int = 0o777, exist_ok: bool = False) -> None:
    try:
        await mkdir(name, mode)  # mostly the directory above is there
    except OSError as error:
        if error.errno == _errno.ENOENT or (exist_ok and error.errno == _errno.EEXIST):
            make = partial(_os.makedirs, name, mode, exist_ok)
            return await current().finished(make)
        raise
    return None


class Scan:
    """The entries of a directory, all read by a thread: to iterate over with `for` or with
    `async for`, also in a `with` or an `async with`."""

    def __init__(self, entries: list[_os.DirEntry[Any]]) -> None:
        self._entries = iter(entries)

    def __iter__(self) -> Iterator[_os.DirEntry[Any]]:
        return self

    def __next__(self) -> _os.DirEntry[Any]:
        return next(self._entries)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> _os.DirEntry[Any]:
        for entry in self._entries:
            return entry
        raise StopAsyncIteration

    def close(self) -> None:
        self._entries = iter(())

    def __enter__(self) -> Self:
        return self

    async def __aenter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def __aexit__(self, *what: object) -> None:
        self.close()


async def scandir(path: Any = ".") -> Scan:
    def read() -> list[_os.DirEntry[Any]]:
        with _os.scandir(path) as entries:
            return list(entries)

    return Scan(await current().call(read))


async def walk(
    top: Any,
    topdown: bool = True,
    onerror: Callable[[OSError], object] | None = None,
    followlinks: bool = False,
) -> AsyncIterator[tuple[Any, list[Any], list[Any]]]:
    """As os.walk, for `async for`; a thread reads each directory. Top down, the list of
    directories may be changed in place to choose where the walk goes."""
    engine = current()
    stack: list[Any] = [_os.fspath(top)]
    while stack:
        step = stack.pop()
        if isinstance(step, tuple):
            yield step
            continue
        try:
            directories, files, below = await engine.call(_level, step, followlinks)
        except OSError as error:
            if onerror is not None:
                onerror(error)
            continue
        found = step, directories, files
        if topdown:
            yield found
            # Those that the caller has added or left, links only where they are followed.
            paths = [_os.path.join(step, name) for name in directories]
            if not followlinks:
                paths = await engine.call(_no_links, paths)
            stack.extend(reversed(paths))
        else:
            stack.append(found)
            stack.extend(reversed(below))


def _level(top: Any, followlinks: bool) -> tuple[list[Any], list[Any], list[Any]]:
    """Names of directories and of all else, and the paths of the directories to go into."""
    directories: list[Any] = []
    files: list[Any] = []
    below: list[Any] = []
    with _os.scandir(top) as entries:
        for entry in entries:
            try:
                is_directory = entry.is_dir()
            except OSError:
                is_directory = False
            (directories if is_directory else files).append(entry.name)
            if is_directory and (followlinks or not entry.is_symlink()):
                below.append(_os.path.join(top, entry.name))
    return directories, files, below


def _no_links(paths: list[Any]) -> list[Any]:
    return [path for path in paths if not _os.path.islink(path)]
