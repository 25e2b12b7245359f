"""Fixtures of the tests of noria get and noria put."""

from __future__ import annotations

import pytest

pytest.importorskip("httpx")

from noria.transfer import retry
from support.small_fileserver import Server


@pytest.fixture(autouse=True)
def isolated(tmp_path, monkeypatch):
    """A state directory for each test, no proxy, and no pauses between attempts."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(retry, "FIRST_PAUSE_SECONDS", 0.0001)


@pytest.fixture
def root(tmp_path):
    """The directory that the server serves."""
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def here(tmp_path):
    """The local directory."""
    (tmp_path / "here").mkdir()
    return tmp_path / "here"


@pytest.fixture
def server(root):
    with Server(root) as server:
        yield server
