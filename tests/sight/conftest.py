"""Fixtures for the tests of noria.sight."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def runtime_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sockets of agents are in a directory of the test."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
