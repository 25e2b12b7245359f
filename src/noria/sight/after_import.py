"""Calls a function when a module has been imported."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from typing import Any

_functions: dict[str, list[Callable[[Any], object]]] = {}


class _Finder:
    """Finds modules by the other finders, and adds the calls to their loaders."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name not in _functions:
            return None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            if finder is self or find is None:
                continue
            spec: ModuleSpec | None = find(name, path, target)
            if spec is not None:
                _add_calls(spec)
                return spec
        return None


_finder = _Finder()


def _add_calls(spec: ModuleSpec) -> None:
    loader: Any = spec.loader
    exec_module = getattr(loader, "exec_module", None)
    if exec_module is None:
        return

    def exec_and_call(module: Any) -> None:
        del loader.exec_module  # the class's own is found again
        exec_module(module)
        for function in _functions.pop(spec.name, []):
            function(module)
        if not _functions and _finder in sys.meta_path:
            sys.meta_path.remove(_finder)

    try:
        loader.exec_module = exec_and_call
    except AttributeError:
        return


def after_import(name: str, function: Callable[[Any], object]) -> None:
    """Call *function* with a module once it is imported; at once if it is imported already."""
    module = sys.modules.get(name)
    if module is not None:
        function(module)
        return
    _functions.setdefault(name, []).append(function)
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
