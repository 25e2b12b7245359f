"""The functions of os that may wait for a disk, as coroutines: `await noria.os.stat(path)`.

Arguments, results and errors are those of os. docs/files.md lists which use io_uring and which use
threads. If a function that changes something is cancelled, it completes or does not begin: the
CancelledError has its `result` and its `error`.
"""

from __future__ import annotations

import errno as _errno
import os as _os
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial, wraps
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from noria import path
from noria.files.engine import current
from noria.files.engine_base import PathLike

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


def _query(function: Callable[P, T]) -> Callable[P, Any]:
    """A coroutine function that calls `function` in a thread; if cancelled, it is not awaited."""

    @wraps(function)
    async def run(*arguments: P.args, **keywords: P.kwargs) -> T:
        return await current().run_in_thread(partial(function, *arguments, **keywords))

    return run


def _change(function: Callable[P, T]) -> Callable[P, Any]:
    """A coroutine function that calls `function` in a thread and awaits it even if cancelled."""

    @wraps(function)
    async def run(*arguments: P.args, **keywords: P.kwargs) -> T:
        return await current().change_in_thread(partial(function, *arguments, **keywords))

    return run


access = _query(_os.access)
getcwd = _query(_os.getcwd)
listdir = _query(_os.listdir)
readlink = _query(_os.readlink)
statvfs = _query(_os.statvfs)
chmod = _change(_os.chmod)
chown = _change(_os.chown)
link = _change(_os.link)
removedirs = _change(_os.removedirs)
renames = _change(_os.renames)
sendfile = _change(_os.sendfile)
symlink = _change(_os.symlink)
truncate = _change(_os.truncate)
utime = _change(_os.utime)


async def stat(
    path: PathLike | int, *, dir_fd: int | None = None, follow_symlinks: bool = True
) -> _os.stat_result:
    if isinstance(path, int) or dir_fd is not None:
        call = partial(_os.stat, path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)
        return await current().run_in_thread(call)
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
    return await current().change_in_thread(change)


replace = rename  # the same on Linux


async def unlink(path: PathLike, *, dir_fd: int | None = None) -> None:
    if dir_fd is None:
        return await current().unlink(_os.fspath(path))
    return await current().change_in_thread(partial(_os.unlink, path, dir_fd=dir_fd))


remove = unlink


async def mkdir(path: PathLike, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
    if dir_fd is None:
        return await current().mkdir(_os.fspath(path), mode)
    return await current().change_in_thread(partial(_os.mkdir, path, mode, dir_fd=dir_fd))


async def rmdir(path: PathLike, *, dir_fd: int | None = None) -> None:
    if dir_fd is None:
        return await current().rmdir(_os.fspath(path))
    return await current().change_in_thread(partial(_os.rmdir, path, dir_fd=dir_fd))


async def makedirs(name: PathLike, mode: int = 0o777, exist_ok: bool = False) -> None:
    try:
        await mkdir(name, mode)  # in most cases the parent directory exists
    except OSError as error:
        if error.errno == _errno.ENOENT or (exist_ok and error.errno == _errno.EEXIST):
            make = partial(_os.makedirs, name, mode, exist_ok)
            return await current().change_in_thread(make)
        raise
    return None


class ScandirIterator:
    """The entries of a directory, all read in one call in a thread.

    Iterate with `for` or `async for`; `with` and `async with` work too.
    """

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


async def scandir(path: Any = ".") -> ScandirIterator:
    def read() -> list[_os.DirEntry[Any]]:
        with _os.scandir(path) as entries:
            return list(entries)

    return ScandirIterator(await current().run_in_thread(read))


async def walk(
    top: Any,
    topdown: bool = True,
    onerror: Callable[[OSError], object] | None = None,
    followlinks: bool = False,
) -> AsyncIterator[tuple[Any, list[Any], list[Any]]]:
    """As os.walk, for `async for`; each directory is read in a thread.

    Top down, the caller may change the list of directories in place, to prune or order the walk.
    """
    engine = current()
    stack: list[Any] = [_os.fspath(top)]
    while stack:
        step = stack.pop()
        if isinstance(step, tuple):
            yield step
            continue
        try:
            directories, files, subpaths = await engine.run_in_thread(_scan, step, followlinks)
        except OSError as error:
            if onerror is not None:
                onerror(error)
            continue
        found = step, directories, files
        if topdown:
            yield found
            # The directories that the caller left in the list or added to it.
            paths = [_os.path.join(step, name) for name in directories]
            if not followlinks:
                paths = await engine.run_in_thread(_without_links, paths)
            stack.extend(reversed(paths))
        else:
            stack.append(found)
            stack.extend(reversed(subpaths))


def _scan(top: Any, followlinks: bool) -> tuple[list[Any], list[Any], list[Any]]:
    """The names of directories, all other names, and the paths of the directories to walk."""
    directories: list[Any] = []
    files: list[Any] = []
    subpaths: list[Any] = []
    with _os.scandir(top) as entries:
        for entry in entries:
            try:
                is_directory = entry.is_dir()
            except OSError:
                is_directory = False
            (directories if is_directory else files).append(entry.name)
            if is_directory and (followlinks or not entry.is_symlink()):
                subpaths.append(_os.path.join(top, entry.name))
    return directories, files, subpaths


def _without_links(paths: list[Any]) -> list[Any]:
    return [path for path in paths if not _os.path.islink(path)]
