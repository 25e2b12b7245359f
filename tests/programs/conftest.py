"""Tests of real programs on noria, started as their users start them.

A test is skipped if its program is not installed (``pip install 'noria[programs]'``; PostgreSQL and
Redis from the system's packages), and fails instead with NORIA_PROGRAMS=required.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Any

import pytest

import noria
from support.certificates import write_certificate

HERE = Path(__file__).parent
REQUIRED = os.environ.get("NORIA_PROGRAMS") == "required"
MODELS = ("auto", "select", "poll", "epoll", "epoll-edge", "io_uring")


@pytest.fixture(params=MODELS)
def run(request: pytest.FixtureRequest) -> Any:
    """Return noria.run bound to each model."""
    return lambda main: noria.run(main, model=request.param)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return a certificate of 127.0.0.1 and its CA, as SSL contexts and as files."""
    folder = tmp_path_factory.mktemp("certificates")
    authority, issued = write_certificate(folder)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    issued.configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return {
        "server": server,
        "client": client,
        "key": str(folder / "key.pem"),
        "cert": str(folder / "cert.pem"),
    }


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(90))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Any:
    report = yield
    if REQUIRED and report.skipped and HERE in item.path.parents:
        report.outcome = "failed"
        report.longrepr = f"it must run here, but was skipped: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: Any) -> Any:
    report = yield
    if REQUIRED and report.skipped and HERE in collector.path.parents:
        report.outcome = "failed"
        report.longrepr = f"it must run here, but was skipped: {report.longrepr}"
    return report
