"""Places in the code: of code objects, frames, suspended coroutines and exceptions.

A place is a tuple (function, file, line, source), as in the JSON of the live protocol.
"""

from __future__ import annotations

import functools
import gc
import linecache
import os
import sys
import sysconfig
from collections.abc import Sequence
from contextvars import Context
from types import (
    AsyncGeneratorType,
    CodeType,
    CoroutineType,
    FrameType,
    GeneratorType,
    TracebackType,
)
from typing import Any, NamedTuple

PlaceTuple = tuple[str, str, int, str]

MAX_FRAMES = 64  # of an await stack
MAX_PLACES_KEPT = 20_000
MAX_FILES_KEPT = 4096

# By the id of the code object, which is kept: the hash of a code object takes long.
_kept: dict[tuple[int, int], tuple[PlaceTuple, CodeType]] = {}

_STDLIB = tuple(
    os.path.join(path, "")
    for path in {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
    if path
)
_NORIA = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")
_SITE_PACKAGES = (os.sep + "site-packages" + os.sep, os.sep + "dist-packages" + os.sep)


def place_of_code(code: CodeType, line: int | None = None) -> PlaceTuple:
    """Return the place of a code object; *line* is its first line if it is not given."""
    if line is None:
        line = code.co_firstlineno
    kept = _kept.get((id(code), line))
    if kept is not None:
        return kept[0]
    source = linecache.getline(code.co_filename, line).strip()[:200]
    place = (code.co_qualname, code.co_filename, line, source)
    if len(_kept) >= MAX_PLACES_KEPT:
        _kept.clear()
    _kept[id(code), line] = place, code
    return place


def place_of_callable(function: Any) -> PlaceTuple:
    """Return the place where a function, method, partial or class is defined."""
    code = code_of(function)
    if isinstance(code, CodeType):
        return place_of_code(code)
    name = getattr(code, "__qualname__", None) or getattr(type(code), "__qualname__", "")
    module = getattr(code, "__module__", None)
    return (f"{module}.{name}" if module else str(name), "", 0, "")


def code_of(function: Any) -> Any:
    """Return the code object of a function, method or partial; else the innermost callable.

    Of `functools.partial(context.run, function)`, which `asyncio.to_thread` submits, it is the
    code of the function that runs in the context.
    """
    for _ in range(10):
        inner = getattr(function, "__func__", None) or getattr(function, "func", None)
        if isinstance(getattr(inner, "__self__", None), Context):
            arguments = getattr(function, "args", ())
            inner = arguments[0] if arguments else inner
        if inner is None or not callable(inner):
            break
        function = inner
    code = getattr(function, "__code__", None)
    if code is None and not isinstance(function, type):
        code = getattr(vars(type(function)).get("__call__"), "__code__", None)
    return function if code is None else code


def is_import(stack: Sequence[PlaceTuple]) -> bool:
    """Whether a stack is inside an import statement."""
    return any(
        file.startswith("<frozen importlib") and function.startswith("_find_and_load")
        for function, file, _, _ in stack
    )


# Called for each frame above a garbage collection.
@functools.lru_cache(MAX_FILES_KEPT)
def is_user_code(file: str) -> bool:
    """Whether a file is the program's own: not of the standard library, noria or a package."""
    if file.startswith((_NORIA, "<frozen")):
        return False
    if any(folder in file for folder in _SITE_PACKAGES):
        return False
    return not file.startswith(_STDLIB)


def innermost_user_frame(frame: FrameType | None) -> FrameType | None:
    """Return the first of a frame and its callers that is the program's own; None without one."""
    while frame is not None and not is_user_code(frame.f_code.co_filename):
        frame = frame.f_back
    return frame


def innermost_user_place(stack: Sequence[PlaceTuple]) -> PlaceTuple | None:
    """Return the program's own innermost place of a stack, else the innermost one."""
    for place in reversed(stack):
        if is_user_code(place[1]):
            return place
    return stack[-1] if stack else None


def place_of_exception(error: BaseException) -> PlaceTuple:
    """Return where an exception was raised: the program's own innermost line, if there is one."""
    found = None
    traceback: TracebackType | None = error.__traceback__
    last = None
    while traceback is not None:
        last = traceback
        if is_user_code(traceback.tb_frame.f_code.co_filename):
            found = traceback
        traceback = traceback.tb_next
    found = found or last
    if found is None:
        return ("", "", 0, "")
    return place_of_code(found.tb_frame.f_code, found.tb_lineno)


# Suspended coroutines. A coroutine, generator or asynchronous generator says what it awaits; the
# objects between them (FutureIter, async_generator_asend, coroutine_wrapper) have no attribute for
# it, but the garbage collector visits it.
#
# While a coroutine runs, in another thread, cr_await must not be read: before Python 3.13 it may
# return memory that is no object (Objects/genobject.c, _PyGen_yf). CPython switches threads at
# calls and at the ends of loops: not between a condition and the attribute that it guards.

# The attributes of coroutines that are not CPython's own, such as Cython's.
_FOREIGN = (
    ("cr_frame", "cr_await", "cr_code"),
    ("gi_frame", "gi_yieldfrom", "gi_code"),
    ("ag_frame", "ag_await", "ag_code"),
)


def _parts(awaitable: Any) -> tuple[FrameType | None, Any, Any] | None:
    """Return the frame of a coroutine, what it awaits while it is suspended, and its code."""
    kind = type(awaitable)
    if kind is CoroutineType:
        awaited = awaitable.cr_await if awaitable.cr_suspended else None
        return awaitable.cr_frame, awaited, awaitable.cr_code
    if kind is GeneratorType:
        awaited = awaitable.gi_yieldfrom if awaitable.gi_suspended else None
        return awaitable.gi_frame, awaited, awaitable.gi_code
    if kind is AsyncGeneratorType:
        # ag_suspended is new in Python 3.12. A frame that does not run has no caller.
        frame = awaitable.ag_frame
        awaited = awaitable.ag_await if frame is not None and frame.f_back is None else None
        return frame, awaited, awaitable.ag_code
    for frame_name, awaited_name, code_name in _FOREIGN:
        if hasattr(awaitable, awaited_name):
            return (
                getattr(awaitable, frame_name, None),
                getattr(awaitable, awaited_name),
                getattr(awaitable, code_name, None),
            )
    return None


class Suspended(NamedTuple):
    """A coroutine, generator or asynchronous generator that waits for another one, or a future."""

    coroutine: Any
    code: Any
    frame: FrameType | None


def await_stack(coroutine: Any) -> tuple[list[Suspended], Any]:
    """Follow what a suspended coroutine awaits.

    Returns the coroutines, outermost first, and the object at the end: a future, another awaitable
    that is not written in Python, or None.
    """
    frames: list[Suspended] = []
    awaited = coroutine
    for _ in range(MAX_FRAMES):
        if awaited is None:
            break
        parts = _parts(awaited)
        if parts is None:
            further = _referent(awaited)
            if further is None:
                break
            awaited = further
            continue
        frame, following, code = parts
        frames.append(Suspended(awaited, code, frame))
        awaited = following
    return frames, awaited


def _referent(awaitable: Any) -> Any:
    """Return the coroutine, generator or future inside an awaitable of the interpreter."""
    if hasattr(awaitable, "get_loop"):
        return None  # a future: the end of the chain
    for inner in gc.get_referents(awaitable):
        if not isinstance(inner, type) and (
            hasattr(inner, "get_loop") or _parts(inner) is not None
        ):
            return inner
    return None


def module_of_frame(frame: FrameType | None) -> str:
    """Return the name of the module that a frame's code belongs to."""
    return str(frame.f_globals.get("__name__", "")) if frame is not None else ""


def frame_of_thread(ident: int) -> FrameType | None:
    """Return the frame that a thread (threading.get_ident()) runs now."""
    return sys._current_frames().get(ident)
