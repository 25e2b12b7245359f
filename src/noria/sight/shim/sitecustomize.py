"""Runs at the start of each Python process below `noria run`: see noria.sight.runner.

The environment's own sitecustomize runs as well. In a Python without noria nothing happens.
"""

import importlib.machinery
import importlib.util
import os
import sys


def _run_the_other_one() -> None:
    """Run the sitecustomize that this one hides, under its name."""
    folder = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != folder]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", sys.path)
    if spec is None or spec.loader is None:
        return
    module = importlib.util.module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


def _start() -> None:
    try:
        from noria.sight.runner import start
    except ImportError:
        return  # another Python than the one that `noria run` was started with
    start()


_run_the_other_one()
if os.environ.get("NORIA_RUN"):
    _start()
