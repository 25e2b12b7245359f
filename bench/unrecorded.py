"""noria's event loop of another build: the loop "unrecorded-MODEL" of bench/sight.py.

NORIA_UNRECORDED is the directory `src` of a checkout that is built in place.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

_noria: Any = None


def new_event_loop(model: str = "auto") -> Any:
    """Create a loop of the other build.

    The modules of noria that this process has imported before stay in use by those that hold
    them; later imports get the other build's. Raises ImportError if there is none.
    """
    global _noria
    if _noria is None:
        path = os.path.realpath(os.environ["NORIA_UNRECORDED"])
        for name in list(sys.modules):
            if name.partition(".")[0] == "noria":
                del sys.modules[name]
        sys.path.insert(0, path)
        importlib.invalidate_caches()
        _noria = importlib.import_module("noria")
        if not os.path.realpath(str(_noria.__file__)).startswith(path + os.sep):
            raise ImportError(f"noria was not found in {path}: build it there in place")
    return _noria.new_event_loop(model)
