"""noria.open: files whose methods are coroutines and never block the loop."""

from __future__ import annotations

import errno
import io
import os
import stat
import warnings
from collections.abc import Callable, Coroutine, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from noria.files.binary import BLOCK, BinaryFile
from noria.files.engine import current
from noria.files.modes import Mode, parsed
from noria.files.raw import RawFile
from noria.files.text import TextFile

AnyFile = RawFile | BinaryFile | TextFile
F = TypeVar("F", bound=Any)
Opener = Callable[[Any, int], int]


class Opening(Generic[F]):
    """A file that is being opened: to be awaited, or entered with `async with`."""

    __slots__ = ("_coroutine", "_obj")

    def __init__(self, coroutine: Coroutine[Any, Any, F]) -> None:
        self._coroutine = coroutine
        self._obj: F | None = None

    def __await__(self) -> Generator[Any, Any, F]:
        if self._obj is None:
            self._obj = yield from self._coroutine.__await__()
        return self._obj

    async def __aenter__(self) -> F:
        return await self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        file: Any = self._obj
        await file.__aexit__(kind, error, trace)

    def close(self) -> None:
        """For an opening that nobody awaits."""
        self._coroutine.close()

    if not TYPE_CHECKING:  # a type checker says that there is no such thing

        def __enter__(self):
            self.close()
            raise TypeError("a file of noria.open is entered by async with: "
                            "'async with noria.open(…) as file'")  # fmt: skip

        def __exit__(self, *_):
            """Is looked for before `__enter__` is called."""

        def __getattr__(self, name):
            hint = "" if name.startswith("_") else (
                "; it is no file before it is awaited: 'file = await noria.open(…)', or "
                "'async with noria.open(…) as file'"
            )  # fmt: skip
            raise AttributeError(
                f"{type(self).__name__!r} object has no attribute {name!r}{hint}",
                name=name,
                obj=self,
            )


@overload
def open(
    file: Any,
    mode: Literal["r", "w", "a", "x", "r+", "w+", "a+", "x+", "rt", "wt", "at", "xt"] = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Opener | None = None,
) -> Opening[TextFile]: ...
@overload
def open(
    file: Any,
    mode: Literal["rb", "wb", "ab", "xb", "rb+", "wb+", "ab+", "xb+", "r+b", "w+b", "a+b", "x+b"],
    buffering: Literal[0],
    encoding: None = None,
    errors: None = None,
    newline: None = None,
    closefd: bool = True,
    opener: Opener | None = None,
) -> Opening[RawFile]: ...
@overload
def open(
    file: Any,
    mode: Literal["rb", "wb", "ab", "xb", "rb+", "wb+", "ab+", "xb+", "r+b", "w+b", "a+b", "x+b"],
    buffering: int = -1,
    encoding: None = None,
    errors: None = None,
    newline: None = None,
    closefd: bool = True,
    opener: Opener | None = None,
    *,
    direct: bool = False,
) -> Opening[BinaryFile]: ...
@overload
def open(
    file: Any,
    mode: str,
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Opener | None = None,
    *,
    direct: bool = False,
) -> Opening[Any]: ...
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
    direct: bool = False,
) -> Opening[Any]:
    """Opens a file for the running loop: `await noria.open(…)`, or `async with noria.open(…)`.

    The arguments are those of the built-in open, which raise the same errors; an opener is called
    in a thread. `direct` reads and writes past the kernel's cache (O_DIRECT, open(2)): binary
    files only, and not for appending.
    """
    return Opening(_open(file, mode, buffering, encoding, errors, newline, closefd, opener, direct))


async def _open(
    file: Any,
    mode: str,
    buffering: int,
    encoding: str | None,
    errors: str | None,
    newline: str | None,
    closefd: bool,
    opener: Opener | None,
    direct: bool,
) -> AnyFile:
    if not isinstance(file, int):
        file = os.fspath(file)
    how = parsed(mode)
    text: tuple[str, str] | None = None
    if how.binary:
        for value, argument in ((encoding, "encoding"), (errors, "errors"), (newline, "newline")):
            if value is not None:
                article = "an" if argument != "newline" else "a"
                raise ValueError(f"binary mode doesn't take {article} {argument} argument")
        if buffering == 1:
            warnings.warn(
                "line buffering (buffering=1) isn't supported in binary mode, "
                "the default buffer size will be used",
                RuntimeWarning,
                stacklevel=3,
            )
    else:
        if buffering == 0:
            raise ValueError("can't have unbuffered text I/O")
        text = _text(encoding, errors, newline)
    if direct and (not how.binary or how.kind == "a" or buffering == 0):
        raise ValueError(
            "direct=True is for buffered binary files that are not opened for appending: "
            f"mode={mode!r}, buffering={buffering}"
        )
    engine = current()
    if opener is None and closefd and not direct and not isinstance(file, int):
        fd = await engine.open(file, how.flags)
    else:
        fd = await _descriptor(file, how, closefd, opener, direct)
    try:
        # What is opened by name for writing is no directory: open(2) says so itself.
        if (not how.writable or opener or isinstance(file, int)) and stat.S_ISDIR(
            os.fstat(fd).st_mode
        ):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), file)
        if buffering == 0:
            return RawFile(fd, file, how, closefd, engine)
        block = buffering if buffering > 1 else BLOCK
        if direct:
            from noria.files.direct import DirectFile

            return DirectFile(fd, file, how, closefd, engine, block)
        binary = BinaryFile(fd, file, how, closefd, engine, block)
    except BaseException:
        if closefd:
            os.close(fd)
        raise
    if text is None:
        return binary
    lines = buffering == 1 or (buffering < 0 and binary._pos < 0 and os.isatty(fd))
    return TextFile(binary, *text, newline, lines, mode)


_open.__qualname__ = "noria.open"  # what Python calls a coroutine that was never awaited


async def _descriptor(
    file: Any, mode: Mode, closefd: bool, opener: Opener | None, direct: bool
) -> int:
    if isinstance(file, int):
        if file < 0:
            raise ValueError("negative file descriptor")
        return file
    if not closefd:
        raise ValueError("Cannot use closefd=False with file name")
    flags = mode.flags | (os.O_DIRECT if direct else 0)
    if opener is None:
        return await current().open(file, flags)
    fd = await current().opened(opener, file, flags)
    if not isinstance(fd, int):
        raise TypeError("expected integer from opener")
    if fd < 0:
        raise ValueError(f"opener returned {fd}")
    os.set_inheritable(fd, False)
    return fd


def _text(encoding: str | None, errors: str | None, newline: str | None) -> tuple[str, str]:
    """The encoding and the way to treat errors; raises as the built-in does for what it does not
    know. It is asked itself."""
    encoding = io.text_encoding(encoding, 5)
    wrapper = io.TextIOWrapper(io.BytesIO(), encoding, errors, newline)
    return wrapper.encoding, wrapper.errors or "strict"
