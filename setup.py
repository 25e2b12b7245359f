"""Builds the compiled part: every .pyx below src/noria becomes one extension module."""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

if sys.platform != "linux" or sys.implementation.name != "cpython":
    raise SystemExit(
        "noria runs on CPython on Linux only, whose system calls it is built on (epoll, io_uring); "
        f"this is {sys.implementation.name} on {sys.platform}"
    )

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
ANNOTATE = bool(os.environ.get("NORIA_ANNOTATE"))  # write .html beside each .c, to read the C by

# More flags, for sanitizers and the like: NORIA_FLAGS="-fsanitize=address -O1"
MORE = os.environ.get("NORIA_FLAGS", "").split()
# Without debugging information, which most Pythons ask for, the compiler takes a fifth less time.
FLAGS = ["-g0", "-fno-plt", "-fno-semantic-interposition", "-Wno-unused-function"]

# What runs rarely is compiled in less than half the time.
RARE = {
    "noria._core.aio.client_count",
    "noria._core.files.openat2",
    "noria._core.files.page_cache",
    "noria._core.models.simulated",
    "noria._core.recorder.callers",
    "noria._core.recorder.figures",
    "noria._core.recorder.seek",
    "noria._core.recorder.signals",
    "noria._core.recorder.watchdog",
}


def extensions() -> list[Extension]:
    found = []
    for path in sorted((ROOT / "src").rglob("*.pyx")):
        relative = path.relative_to(ROOT)
        name = ".".join(relative.with_suffix("").parts[1:])
        found.append(
            Extension(
                name,
                [str(relative)],
                extra_compile_args=["-O1" if name in RARE else "-O3", *FLAGS, *MORE],
                extra_link_args=MORE,
                define_macros=[("_GNU_SOURCE", "1")],
            )
        )
    return found


def check_compiler(include_dirs: list[str]) -> None:
    """Exit with a message if there is no C compiler, or one without the headers it needs."""
    command = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    if shutil.which(command[0]) is None:
        raise SystemExit(
            f"noria has a compiled part, and the C compiler {command[0]!r} was not found. Install "
            "one (on Debian and Ubuntu: apt-get install gcc libc6-dev) or set CC to another"
        )
    flags = shlex.split(os.environ.get("CPPFLAGS", "") + " " + os.environ.get("CFLAGS", ""))
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    for header, whose, package in (
        ("stdio.h", "the C library", "libc6-dev"),
        ("Python.h", f"Python {python}", f"python{python}-dev"),
    ):
        done = subprocess.run(
            [*command, *flags, *(f"-I{folder}" for folder in include_dirs), "-E", "-x", "c", "-"],
            input=f"#include <{header}>\n",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        if done.returncode != 0:
            print(done.stderr, file=sys.stderr)
            raise SystemExit(
                f"noria has a compiled part, and {command[0]!r} cannot use {header}, a header of "
                f"{whose}. Install it (on Debian and Ubuntu: apt-get install {package})"
            )


class BuildExtensions(build_ext):
    """Looks for the compiler first: Cython takes a minute before the first call of it."""

    def run(self) -> None:
        check_compiler(self.include_dirs)
        made = cythonize(
            self.extensions,
            nthreads=CORES,
            annotate=ANNOTATE,
            include_path=[str(ROOT / "src")],
            compiler_directives={
                "language_level": 3,
                "initializedcheck": False,
                "cdivision": True,
                "embedsignature": True,
            },
        )
        sources = {extension.name: extension.sources for extension in made}
        for extension in self.extensions:
            extension.sources = sources[extension.name]
        super().run()


CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1

if __name__ == "__main__":  # Cython's worker processes import this file
    os.chdir(ROOT)
    setup(
        ext_modules=extensions(),
        cmdclass={"build_ext": BuildExtensions},
        options={"build_ext": {"parallel": CORES}},
    )
