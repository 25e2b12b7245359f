"""Fuzzers: seeded random operations with invariants that are checked exactly.

python -m pytest tests/fuzz                                             # a few seeds each
NORIA_COUNTS=full python -m pytest tests/fuzz                           # many seeds each
NORIA_FUZZ_SECONDS=600 python -m pytest tests/fuzz -k transports        # 600 s for each test
NORIA_FUZZ_SEED=123 python -m pytest tests/fuzz -k "transports and epoll-edge"   # replay one
"""

from __future__ import annotations

from pathlib import Path

import pytest

from noria import models
from support.fuzz.harness import SECONDS
from support.loops import FULL, MODELS, ORACLE

HERE = Path(__file__).parent


@pytest.fixture(params=(*MODELS, ORACLE))
def model(request: pytest.FixtureRequest) -> str:
    """Each model with an asyncio loop, and asyncio's own loop as a reference."""
    name = str(request.param)
    if name != ORACLE:
        works, why_not = models.availability(name)
        if not works:
            pytest.skip(why_not)
    return name


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Raise the test timeout for long manual runs."""
    limit = SECONDS + 120 if SECONDS else 1200 if FULL else 60
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(limit))
