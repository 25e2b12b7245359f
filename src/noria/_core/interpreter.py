"""Which interpreters the compiled part runs in: a process's main one, with its lock (the GIL)."""

import sys


def check() -> None:
    """Raises ImportError where the interpreter runs without its lock.

    A free-threaded build of CPython (PEP 703) takes its lock back when a module is loaded that does
    not say that it can do without, as noria's; unless its user forbids that.
    """
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        raise ImportError(
            "noria needs the interpreter's lock (GIL), and it is turned off: "
            "start Python without PYTHON_GIL=0 and without -X gil=0"
        )
