"""The former place of `noria.fileserver.web.page`. Importing a name from here is deprecated."""

from __future__ import annotations

import warnings
from typing import Any


def __getattr__(name: str) -> Any:
    from noria.fileserver.web import page as module

    if name.startswith("__") or not hasattr(module, name):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(
        f"noria.fileserver.page.{name} is deprecated: import noria.fileserver.web.page",
        DeprecationWarning,
        stacklevel=2,
    )
    return getattr(module, name)
