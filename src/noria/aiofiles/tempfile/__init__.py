"""`aiofiles.tempfile`: files of the tempfile module whose methods are called in threads.

Arguments are those of the tempfile module's functions, and `loop` and `executor`.
"""

from __future__ import annotations

import tempfile as _tempfile
from collections.abc import Callable
from typing import Any

from noria.aiofiles.base import ThreadedFile, in_thread
from noria.files.opening import Opening

__all__ = ["NamedTemporaryFile", "SpooledTemporaryFile", "TemporaryDirectory", "TemporaryFile"]


def NamedTemporaryFile(
    mode: str = "w+b", *arguments: Any, loop: Any = None, executor: Any = None, **keywords: Any
) -> Opening[ThreadedFile]:
    make = _tempfile.NamedTemporaryFile
    return Opening(_make(make, loop, executor, mode, *arguments, **keywords))


def TemporaryFile(
    mode: str = "w+b", *arguments: Any, loop: Any = None, executor: Any = None, **keywords: Any
) -> Opening[ThreadedFile]:
    return Opening(_make(_tempfile.TemporaryFile, loop, executor, mode, *arguments, **keywords))


def SpooledTemporaryFile(
    max_size: int = 0, *arguments: Any, loop: Any = None, executor: Any = None, **keywords: Any
) -> Opening[ThreadedFile]:
    make = _tempfile.SpooledTemporaryFile
    return Opening(_make(make, loop, executor, max_size, *arguments, **keywords))


def TemporaryDirectory(
    suffix: str | None = None,
    prefix: str | None = None,
    dir: Any = None,
    loop: Any = None,
    executor: Any = None,
) -> _OpeningDirectory:
    """`async with` returns the directory's path, `await` an object with `name`, `cleanup()` and
    `close()`."""
    make = _tempfile.TemporaryDirectory
    return _OpeningDirectory(_make(make, loop, executor, suffix, prefix, dir))


class _OpeningDirectory(Opening[ThreadedFile]):
    async def __aenter__(self) -> Any:
        return (await self).name


class _Temporary(ThreadedFile):
    """A temporary file or directory, removed by `close`."""

    async def close(self) -> None:
        file = self._file
        # The file's own end, where that is more than closing it: a name that is still there.
        end = getattr(file, "cleanup", None) or file.close
        await in_thread(self._loop, self._executor, end)

    async def __aexit__(self, *what: object) -> None:
        await in_thread(self._loop, self._executor, self._file.__exit__, None, None, None)


async def _make(
    make: Callable[..., Any], loop: Any, executor: Any, *arguments: Any, **keywords: Any
) -> ThreadedFile:
    file = await in_thread(loop, executor, make, *arguments, **keywords)
    return _Temporary(lambda: file, loop, executor)
