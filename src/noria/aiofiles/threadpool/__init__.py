"""`aiofiles.open` on noria's files. One who names an executor or a loop has that executor's
threads, as with aiofiles."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import Any

from noria.aiofiles.base import Threaded, in_thread, threaded
from noria.files.opening import Opener, Opening
from noria.files.opening import open as noria_open

__all__ = [
    "open",
    "stderr",
    "stderr_bytes",
    "stdin",
    "stdin_bytes",
    "stdout",
    "stdout_bytes",
    "wrap",
]


def open(
    file: Any,
    mode: str = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Opener | None = None,
    *,
    loop: Any = None,
    executor: Any = None,
) -> Opening[Any]:
    """Awaitable, and a context manager for `async with`."""
    arguments = (file, mode, buffering, encoding, errors, newline, closefd, opener)
    if loop is None and executor is None:
        return noria_open(*arguments)
    return Opening(_in_threads(arguments, loop, executor))


async def _in_threads(arguments: Any, loop: Any, executor: Any) -> Threaded:
    return wrap(await in_thread(loop, executor, io.open, *arguments), loop=loop, executor=executor)


def wrap(file: Any, *, loop: Any = None, executor: Any = None) -> Threaded:
    """A file of the standard library, with its methods as coroutines. Raises TypeError for what
    is none."""
    if not isinstance(file, io.IOBase):
        raise TypeError(f"a file of the io module is wanted, not {file!r}")
    return threaded(file, loop, executor)


def _standard(find: Callable[[], Any]) -> Threaded:
    return Threaded(find)


stdin = _standard(lambda: sys.stdin)
stdout = _standard(lambda: sys.stdout)
stderr = _standard(lambda: sys.stderr)
stdin_bytes = _standard(lambda: sys.stdin.buffer)
stdout_bytes = _standard(lambda: sys.stdout.buffer)
stderr_bytes = _standard(lambda: sys.stderr.buffer)
