"""The server under test: one for each model, and asyncio's own loop as the oracle."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from noria import models
from support.serving import NAMES, ORACLE, AsyncioServing, NoriaServing, Serving


@pytest.fixture(params=NAMES)
def server(request: pytest.FixtureRequest, caplog: Any) -> Iterator[Serving]:
    """`server.start(protocol_class)` serves and gives the address.

    A test that makes the server log an error says so by `server.errors_expected = True`.
    """
    name = request.param
    serving: Serving
    if name == ORACLE:
        serving = AsyncioServing()
    else:
        works, why_not = models.availability(name)
        if not works:
            pytest.skip(why_not)
        serving = NoriaServing(name)
    caplog.set_level(logging.WARNING)
    try:
        yield serving
    finally:
        serving.stop()
    errors = [
        record
        for when in ("setup", "call", "teardown")
        for record in caplog.get_records(when)
        if record.levelno >= logging.ERROR and record.name == serving.logger
    ]
    if serving.errors_expected:
        assert errors, "nothing was logged"
    else:
        assert not errors, [record.getMessage() for record in errors]
