"""The part of a server that a sample belongs to.

The kernel's samples are the kernel's. Any other sample belongs to the innermost function that is
not one of the C library or of CPython's run-time: what `PyBytes_FromStringAndSize` takes is the
loop's if the loop calls it, and Python code's if the evaluation loop does.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from sampling.perf import Frame, Stack

KERNEL = "kernel"
LOOP = "loop"
PYTHON = "Python"
ASYNCIO = "asyncio"
PARSER = "HTTP parser"
OPENSSL = "OpenSSL"
OTHER = "other"
PARTS = (KERNEL, LOOP, ASYNCIO, PYTHON, PARSER, OPENSSL, OTHER)
MEANING = {
    KERNEL: "system calls, the network stack, scheduling, interrupts",
    LOOP: "compiled code of the event loop, and what it calls in CPython and in the C library",
    ASYNCIO: "CPython's compiled Task and Future (_asyncio), and what they call",
    PYTHON: "Python code: protocol, framework, application (on asyncio the loop too)",
    PARSER: "httptools, or the HTTP modules of aiohttp",
    OPENSSL: "libssl, libcrypto, and Python's module _ssl",
    OTHER: "other compiled modules, and stacks that could not be unwound",
}

LOOPS = ("noria", "uvloop", "rloop", "blazio", "granian")
PARSERS = ("httptools", "aiohttp")
EVALUATION = ("_PyEval_EvalFrameDefault", "_TAIL_CALL_")
RUNTIME = re.compile(r"(libpython|python)\d(\.\d+)*(\.so[.\d]*)?")
# The C library, its loader (where thread-local variables are found) and the vDSO's clock.
LIBRARY = re.compile(
    r"(libc|libm|libpthread|ld-linux[\w-]*|ld-musl[\w-]*|libstdc\+\+|libgcc_s)\.so.*"
)
SYSTEM_CALL = re.compile(r"(?:__(?:x64|arm64)_sys_|__do_sys_|ksys_)(\w+)")


@functools.cache
def folder(package: str) -> str | None:
    """Return the folder of a package, with its "/" at the end; None if it is not installed."""
    found = importlib.util.find_spec(package)
    return f"{Path(found.origin).resolve().parent}/" if found and found.origin else None


def belongs(file: str, packages: tuple[str, ...]) -> bool:
    """Return whether a file is one of these packages'."""
    return any(file.startswith(here) for here in map(folder, packages) if here)


def part_of_file(frame: Frame) -> str | None:
    """Return the part a function outside the kernel belongs to; None if its caller decides."""
    name = PurePath(frame.file).name
    if name == "epoll_echo":
        return LOOP
    if RUNTIME.fullmatch(name):
        return PYTHON if frame.symbol.startswith(EVALUATION) else None
    if LIBRARY.fullmatch(name) or frame.file == "[vdso]":
        return None
    if belongs(frame.file, LOOPS):
        return LOOP
    if belongs(frame.file, PARSERS):
        return PARSER
    if name.startswith("_asyncio."):
        return ASYNCIO
    if name.startswith(("libssl", "libcrypto", "_ssl.")):
        return OPENSSL
    return OTHER


def part_of(stack: Stack) -> str:
    """Return the part that a sample belongs to."""
    if stack[0].in_kernel:
        return KERNEL
    return next(filter(None, map(part_of_file, stack)), OTHER)


def place_of(frame: Frame) -> str:
    """Return where the sampled instruction itself lies."""
    name = PurePath(frame.file).name
    if frame.in_kernel:
        return "kernel"
    if RUNTIME.fullmatch(name):
        return "evaluation loop" if frame.symbol.startswith(EVALUATION) else "CPython"
    if LIBRARY.fullmatch(name) or frame.file == "[vdso]":
        return "C library"
    return "own code"


def python_function_of(stack: Stack) -> tuple[str, str] | None:
    """Return package and name of the innermost Python function, if `python -X perf` named it.

    The name is that of the trampoline which called the evaluation loop. It has no unwind tables,
    so it is the outermost frame of the stack.
    """
    for frame in stack:
        if frame.symbol.startswith("py::"):
            name, _, file = frame.symbol.removeprefix("py::").partition(":")
            return package_of(file), name
    return None


def package_of(file: str) -> str:
    """Return the package of a Python file: the folder below the one that sys.path names."""
    parts = PurePath(file).parts
    for i in range(len(parts) - 1, 0, -1):
        if parts[i - 1] in ("site-packages", "dist-packages", "src") or (
            re.fullmatch(r"python\d\.\d+", parts[i - 1]) and parts[i] != "site-packages"
        ):
            return parts[i].removesuffix(".py")
    return "program" if file.endswith(".py") else file


def system_call_of(stack: Stack) -> str:
    """Return the system call a sample of the kernel is in; "" if it is in none, or not known."""
    for frame in stack:
        if not frame.in_kernel:
            break
        if found := SYSTEM_CALL.match(frame.symbol):
            return found[1]
    return ""


@dataclass
class Profile:
    """The samples of one measurement, counted."""

    samples: int = 0
    parts: Counter[str] = field(default_factory=Counter)
    places: Counter[tuple[str, str]] = field(default_factory=Counter)  # of (part, place)
    calls: Counter[str] = field(default_factory=Counter)  # system calls
    functions: Counter[tuple[str, str]] = field(default_factory=Counter)  # of (part, symbol)
    python: Counter[tuple[str, str]] = field(default_factory=Counter)  # of (package, function)

    @classmethod
    def of(cls, stacks: Iterable[Stack]) -> Profile:
        """Count the samples."""
        profile = cls()
        for stack in stacks:
            part = part_of(stack)
            profile.samples += 1
            profile.parts[part] += 1
            profile.places[part, place_of(stack[0])] += 1
            profile.functions[part, stack[0].symbol] += 1
            if part == PYTHON:
                profile.python[python_function_of(stack) or ("", "")] += 1
            if part == KERNEL:
                profile.calls[system_call_of(stack) or "none"] += 1
        return profile
