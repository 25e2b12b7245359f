"""Builds the compiled part: every .pyx below src/noria becomes one extension module."""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

ROOT = Path(__file__).parent
ANNOTATE = bool(os.environ.get("NORIA_ANNOTATE"))  # write .html beside each .c, to read the C by

# More flags, for sanitizers and the like: NORIA_FLAGS="-fsanitize=address -O1"
MORE = os.environ.get("NORIA_FLAGS", "").split()
FLAGS = ["-O3", "-fno-plt", "-fno-semantic-interposition", "-Wno-unused-function", *MORE]


def extensions() -> list[Extension]:
    found = []
    for path in sorted((ROOT / "src").rglob("*.pyx")):
        relative = path.relative_to(ROOT)
        name = ".".join(relative.with_suffix("").parts[1:])
        found.append(
            Extension(
                name,
                [str(relative)],
                extra_compile_args=FLAGS,
                extra_link_args=MORE,
                define_macros=[("_GNU_SOURCE", "1")],
            )
        )
    return found


def main() -> None:
    os.chdir(ROOT)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    setup(
        ext_modules=cythonize(
            extensions(),
            nthreads=cores,
            annotate=ANNOTATE,
            include_path=[str(ROOT / "src")],
            compiler_directives={
                "language_level": 3,
                "initializedcheck": False,
                "cdivision": True,
                "embedsignature": True,
            },
        ),
        options={"build_ext": {"parallel": cores}},
    )


if __name__ == "__main__":  # Cython's worker processes import this file
    main()
