"""Fixtures of the tests of `noria compare`."""

import pytest

from support.chromium import Browser
from support.running import children


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("browser")) as started:
        yield started


@pytest.fixture
def no_process_left():
    before = children()
    yield
    assert children() <= before
