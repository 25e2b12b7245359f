"""noria.open: open a file whose methods are coroutines."""

from __future__ import annotations

import errno
import io
import os
import stat
import warnings
from collections.abc import Callable, Coroutine, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from noria.files.binary import DEFAULT_BUFFER_SIZE, BinaryFile
from noria.files.engine import current
from noria.files.modes import Mode, parse_mode
from noria.files.raw import RawFile
from noria.files.text import TextFile

AnyFile = RawFile | BinaryFile | TextFile
F = TypeVar("F", bound=Any)
Opener = Callable[[Any, int], int]


class Opening(Generic[F]):
    """The result of noria.open: await it, or enter it with `async with`, to get the file."""

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
        """Close the coroutine; for an opening that is not awaited."""
        self._coroutine.close()

    if not TYPE_CHECKING:  # type checkers report these uses themselves

        def __enter__(self):
            self.close()
            raise TypeError("noria.open does not support 'with': use "
                            "'async with noria.open(…) as file'")  # fmt: skip

        def __exit__(self, *_):
            """Python looks it up before it calls `__enter__`."""

        def __getattr__(self, name):
            hint = "" if name.startswith("_") else (
                "; await it to get the file: 'file = await noria.open(…)', or "
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
    """Open a file for the running loop: `await noria.open(…)`, or `async with noria.open(…)`.

    Arguments and errors are those of the built-in open; an opener is called in a thread. With
    `direct`, a buffered binary file bypasses the page cache (O_DIRECT, open(2)); not for appending.
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
    parsed = parse_mode(mode)
    text: tuple[str, str] | None = None
    if parsed.binary:
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
    if direct and (not parsed.binary or parsed.kind == "a" or buffering == 0):
        raise ValueError(
            "direct=True requires a buffered binary file that is not opened for appending, got "
            f"mode={mode!r} and buffering={buffering}"
        )
    engine = current()
    if opener is None and closefd and not direct and not isinstance(file, int):
        fd = await engine.open(file, parsed.flags)
    else:
        fd = await _descriptor(file, parsed, closefd, opener, direct)
    try:
        # open(2) itself refuses to open a directory by name for writing.
        if (not parsed.writable or opener or isinstance(file, int)) and stat.S_ISDIR(
            os.fstat(fd).st_mode
        ):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), file)
        if buffering == 0:
            return RawFile(fd, file, parsed, closefd, engine)
        block = buffering if buffering > 1 else DEFAULT_BUFFER_SIZE
        if direct:
            from noria.files.direct import DirectFile

            return DirectFile(fd, file, parsed, closefd, engine, block)
        binary = BinaryFile(fd, file, parsed, closefd, engine, block)
    except BaseException:
        if closefd:
            os.close(fd)
        raise
    if text is None:
        return binary
    lines = buffering == 1 or (buffering < 0 and binary._pos < 0 and os.isatty(fd))
    return TextFile(binary, *text, newline, lines, mode)


# Python names it in the warning about a coroutine that was never awaited.
_open.__qualname__ = "noria.open"


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
    fd = await current().open_with(opener, file, flags)
    if not isinstance(fd, int):
        raise TypeError("expected integer from opener")
    if fd < 0:
        raise ValueError(f"opener returned {fd}")
    os.set_inheritable(fd, False)
    return fd


def _text(encoding: str | None, errors: str | None, newline: str | None) -> tuple[str, str]:
    """The encoding and the error handler, as io.TextIOWrapper chooses and checks them."""
    encoding = io.text_encoding(encoding, 5)
    wrapper = io.TextIOWrapper(io.BytesIO(), encoding, errors, newline)
    return wrapper.encoding, wrapper.errors or "strict"
