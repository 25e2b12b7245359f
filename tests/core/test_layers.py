"""The layers of the compiled modules. import-linter checks the Python modules (.importlinter)."""

from __future__ import annotations

import re
from graphlib import TopologicalSorter

import pytest

from support.running import ROOT

SOURCES = ROOT / "src"

# What the modules of each package may import besides their own package.
LAYERS = {
    "noria._core": {"noria._core.recorder", "noria.errors"},
    "noria._core.recorder": {"noria._core", "noria.errors"},
    "noria._core.uring": {"noria._core", "noria.errors"},
    "noria._core.models": {
        "noria._core",
        "noria._core.recorder",
        "noria._core.uring",
        "noria.errors",
    },
    "noria._core.aio": {"noria._core", "noria._core.recorder", "noria.errors"},
    "noria._core.files": {
        "noria._core",
        "noria._core.recorder",
        "noria._core.uring",
        "noria.errors",
    },
    "noria.compare.loadgen": {"noria._core", "noria.errors"},
}

IMPORT = re.compile(
    r"^\s*(?:from\s+(noria[\w.]*)\s+c?import\s+(\w+)|(?:c?import)\s+(noria[\w.]+))", re.MULTILINE
)


def imports() -> dict[str, set[str]]:
    """Return the noria modules that each .pyx and .pxd file imports or cimports, by its module."""
    found: dict[str, set[str]] = {}
    for path in sorted([*SOURCES.rglob("*.pyx"), *SOURCES.rglob("*.pxd")]):
        module = ".".join(path.relative_to(SOURCES).with_suffix("").parts)
        names = found.setdefault(module, set())
        for package, name, whole in IMPORT.findall(path.read_text("utf-8")):
            target = whole or package
            folder = SOURCES.joinpath(*target.split("."))
            # `from noria._core cimport sys` imports a module; of a module, names are imported.
            names.add(f"{target}.{name}" if folder.is_dir() and name else target)
        names.discard(module)
    return found


IMPORTS = imports()


@pytest.mark.parametrize("module", IMPORTS)
def test_a_compiled_module_imports_lower_layers_only(module: str) -> None:
    package = module.rpartition(".")[0]
    allowed = {package, *LAYERS[package]}
    wrong = {
        name
        for name in IMPORTS[module]
        if name not in allowed and name.rpartition(".")[0] not in allowed
    }
    assert not wrong, f"{module} must not import {sorted(wrong)}"


def test_compiled_modules_have_no_import_cycle() -> None:
    list(TopologicalSorter(IMPORTS).static_order())  # raises CycleError, which names the cycle


def test_the_check_sees_imports() -> None:
    assert "noria._core.contract" in IMPORTS["noria._core.stream"]
    assert len(IMPORTS) > 20
