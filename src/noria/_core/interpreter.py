"""The interpreters on which the compiled modules run: the one they were built for, with its GIL."""

import os
import sys
from collections.abc import Iterable
from importlib.machinery import EXTENSION_SUFFIXES


def check() -> None:
    """Raise ImportError if the interpreter runs without its GIL.

    A free-threaded build of CPython (PEP 703) enables its GIL, with a RuntimeWarning, when it loads
    a module that does not declare support for running without, such as noria's. PYTHON_GIL=0 and
    -X gil=0 prevent that.
    """
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        raise ImportError(
            "noria needs the global interpreter lock (GIL), and PYTHON_GIL=0 or -X gil=0 keeps it "
            "off: start Python without them",
            name="noria._core",
        )


def explain_missing_modules(folders: Iterable[str]) -> str:
    """Why `folders` has no compiled `contract` for this Python, and what to do."""
    found = set()
    for folder in folders:
        for name in os.listdir(folder):
            module, _, suffix = name.partition(".")
            if module == "contract" and suffix.endswith("so"):
                found.add(suffix.removesuffix("so").strip(".") or "any")
    if found:
        problem = (
            f"noria was built for another Python ({', '.join(sorted(found))}) than this one "
            f"({EXTENSION_SUFFIXES[0].removesuffix('.so').strip('.')})"
        )
    else:
        problem = "noria's compiled modules are missing: this is a source tree that was not built"
    package = f"python{sys.version_info.major}.{sys.version_info.minor}-dev"
    return (
        f"{problem}. Install it with this Python: '{sys.executable} -m pip install noria', or "
        "'pip install .' in the source tree, which needs a C compiler and Python's headers (on "
        f"Debian and Ubuntu: apt-get install gcc libc6-dev {package})"
    )
