"""noria.selector under CPython's own tests of selectors, model by model, and tests of its own.

What CPython's tests ask of a level-triggered selector and `epoll-edge` does not do by its nature is
listed in EXCEPTIONS, and in docs/selectors.md with the same words.
"""

from __future__ import annotations

import os
import re
import selectors
import socket
import unittest
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

import noria
from noria import models
from noria.selector import SELECTORS

try:
    # Imported as a whole: pytest must not collect CPython's own cases here.
    from test import test_selectors as theirs
except ImportError:  # a Python installed without its tests
    theirs = None  # type: ignore[assignment]

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE

# (model, test): why it cannot pass. Each must fail, or this list is wrong.
EXCEPTIONS: dict[tuple[str, str], str] = {}

# Tests that skip themselves, whatever the selector, as they patch one of CPython's classes.
SKIPS = {"test_modify_unregister"}

SCALABLE = ("poll", "epoll", "epoll-edge", "io_uring")


def cases(model: str) -> list[str]:
    """The names of CPython's tests for this model."""
    if theirs is None:
        return []
    mixins = [theirs.BaseSelectorTestCase]
    if model in SCALABLE:
        mixins.append(theirs.ScalableSelectorMixIn)
    return sorted(name for mixin in mixins for name in vars(mixin) if name.startswith("test_"))


def case_class(model: str) -> type[unittest.TestCase]:
    """CPython's tests bound to one model."""
    bases: tuple[type, ...] = (theirs.BaseSelectorTestCase,)
    if model in SCALABLE:
        bases += (theirs.ScalableSelectorMixIn,)

    def make() -> selectors.BaseSelector:
        made = noria.selector(model)
        if model == "epoll-edge":
            # What it does not tell again would be waited for without end.
            whole = made.select
            made.select = lambda timeout=None: whole(1.0 if timeout is None else timeout)  # type: ignore[method-assign]
        return made

    # A function, not a class: staticmethod keeps it from becoming a method.
    made = {"SELECTOR": staticmethod(make)}
    return type(f"{model}SelectorTestCase", (*bases, unittest.TestCase), made)


@pytest.fixture(params=SELECTORS)
def model(request: pytest.FixtureRequest) -> str:
    works, why_not = models.availability(request.param)
    if not works:
        pytest.skip(why_not)
    return str(request.param)


@pytest.mark.skipif(theirs is None, reason="this Python is installed without its test package")
@pytest.mark.parametrize(
    ("name", "case"), [(name, case) for name in SELECTORS for case in cases(name)]
)
def test_of_cpython(name: str, case: str) -> None:
    works, why_not = models.availability(name)
    if not works:
        pytest.skip(why_not)
    result = unittest.TestResult()
    case_class(name)(case).run(result)
    assert result.testsRun == 1
    problems = [text for _, text in result.errors + result.failures]
    if (name, case) in EXCEPTIONS:
        assert problems, "it passes: take it out of EXCEPTIONS and docs/selectors.md"
        return
    assert not problems, problems[0]
    if result.skipped:
        assert case in SKIPS, result.skipped[0][1]
