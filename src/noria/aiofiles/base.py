"""Any function or file object, called in threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial, wraps
from typing import Any, Self, TypeVar

T = TypeVar("T")

# The methods of a file that are called in a thread. All other attributes are passed through.
THREADED_METHODS = frozenset(
    [
        "close",
        "flush",
        "isatty",
        "peek",
        "read",
        "read1",
        "readall",
        "readinto",
        "readinto1",
        "readline",
        "readlines",
        "rollover",
        "seek",
        "seekable",
        "tell",
        "truncate",
        "writable",
        "write",
        "writelines",
        "cleanup",
    ]
)


def wrap(func: Callable[..., T]) -> Callable[..., Any]:
    """A coroutine function that calls `func` in a thread of `executor`, by default the loop's."""

    @wraps(func)
    async def run(*arguments: Any, loop: Any = None, executor: Any = None, **keywords: Any) -> T:
        return await in_thread(loop, executor, func, *arguments, **keywords)

    return run


async def in_thread(
    loop: Any, executor: Any, function: Callable[..., T], *arguments: Any, **keywords: Any
) -> T:
    """Call `function` in a thread of `executor`, by default that of `loop` or the running loop."""
    call = partial(function, *arguments, **keywords)
    return await (loop or asyncio.get_running_loop()).run_in_executor(executor, call)


class ThreadedFile:
    """A file of the standard library whose methods are called in threads.

    `find` returns the file. It is called for each use, so that the file may be replaced.
    """

    def __init__(self, find: Callable[[], Any], loop: Any = None, executor: Any = None) -> None:
        self._find = find
        self._loop = loop
        self._executor = executor

    @property
    def _file(self) -> Any:
        return self._find()

    def __getattr__(self, name: str) -> Any:
        # copy and pickle look up attributes before __init__ has run.
        if name.startswith("__") or "_find" not in self.__dict__:
            raise AttributeError(name)
        value = getattr(self._find(), name)
        if name in THREADED_METHODS and callable(value):
            return partial(in_thread, self._loop, self._executor, value)
        return value

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._find()!r}>"

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        line = await self.readline()
        if line:
            return line
        raise StopAsyncIteration

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *what: object) -> None:
        await self.close()

    async def writelines(self, lines: Iterable[Any]) -> None:
        await in_thread(self._loop, self._executor, self._file.writelines, list(lines))


def threaded(file: Any, loop: Any = None, executor: Any = None) -> ThreadedFile:
    """Wrap an open file of the standard library."""
    return ThreadedFile(lambda: file, loop, executor)
