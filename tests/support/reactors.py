"""Reactors under test: which models there are, and running one until a condition holds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

import noria
from noria import Reactor, models

LIMIT = 10.0  # seconds
WATCHING = tuple(
    name for name in noria.MODELS if models.info(name).capabilities["readiness"] != "none"
)


def make_reactor(name: str) -> Reactor:
    """A reactor on this model; skips the test if the model is not available here."""
    works, why_not = models.availability(name)
    if not works:
        pytest.skip(why_not)
    return Reactor(name, interval=0.0005)


def run_until(reactor: Reactor, condition: Callable[[], Any]) -> None:
    """Run turns until the condition holds, for LIMIT seconds at most."""
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, "not in time"
        reactor.run_once(0.05)
