"""`aiofiles.open` on noria's files.

With an `executor` or a `loop`, a built-in file in the threads of that executor, as in aiofiles."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import Any

from noria.aiofiles.base import ThreadedFile, in_thread, threaded
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
    """Open a file: await it, or enter it with `async with`."""
    arguments = (file, mode, buffering, encoding, errors, newline, closefd, opener)
    if loop is None and executor is None:
        return noria_open(*arguments)
    return Opening(_in_threads(arguments, loop, executor))


async def _in_threads(arguments: Any, loop: Any, executor: Any) -> ThreadedFile:
    return wrap(await in_thread(loop, executor, io.open, *arguments), loop=loop, executor=executor)


def wrap(file: Any, *, loop: Any = None, executor: Any = None) -> ThreadedFile:
    """Wrap a file of the io module: its methods become coroutines. Raises TypeError for others."""
    if not isinstance(file, io.IOBase):
        raise TypeError(f"wrap() expects a file of the io module, not {file!r}")
    return threaded(file, loop, executor)


def _standard(find: Callable[[], Any]) -> ThreadedFile:
    return ThreadedFile(find)


stdin = _standard(lambda: sys.stdin)
stdout = _standard(lambda: sys.stdout)
stderr = _standard(lambda: sys.stderr)
stdin_bytes = _standard(lambda: sys.stdin.buffer)
stdout_bytes = _standard(lambda: sys.stdout.buffer)
stderr_bytes = _standard(lambda: sys.stderr.buffer)
