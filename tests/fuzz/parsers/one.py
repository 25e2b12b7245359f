"""Fuzz one target until libFuzzer ends: ``python one.py TARGET DIRECTORY… [-options]``."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["noria.http", "noria.transfer", "noria.fileserver"]):
    from targets import TARGETS

name = sys.argv.pop(1)
atheris.Setup(sys.argv, TARGETS[name])
atheris.Fuzz()
