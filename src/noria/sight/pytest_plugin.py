"""The pytest plugin: options and markers. It imports the rest once one of them is used.

pytest --noria-max-block=50ms       a test whose loop was blocked for longer fails
pytest --noria-leaks                so does one that leaves tasks, connections, descriptors
pytest --noria-loop[=MODEL]         run the tests on noria's loop; the other options do too
"""

from __future__ import annotations

import pytest

MARKERS = (
    'max_block(limit): the test fails if the event loop is blocked for longer: "50ms", "0.5s" or '
    "ms=50; None: no limit.",
    "no_leaks(check=True): the test fails if it leaves tasks, connections or descriptors.",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options and their settings for the configuration file."""
    group = parser.getgroup("noria", "noria: event loops")
    group.addoption(
        "--noria-loop",
        nargs="?",
        const="auto",
        metavar="MODEL",
        help="Run the tests on noria's event loop, on this model (auto).",
    )
    group.addoption(
        "--noria-max-block",
        metavar="TIME",
        help="A test fails if its event loop is blocked for longer: 50ms, 0.5s. Shows the stack "
        "taken meanwhile. The marker max_block sets another limit.",
    )
    group.addoption(
        "--noria-leaks",
        action="store_true",
        help="A test fails if it leaves tasks, connections or descriptors.",
    )
    parser.addini("noria_loop", "As --noria-loop: a model, or auto.", default="")
    parser.addini("noria_max_block", "As --noria-max-block.", default="")
    parser.addini("noria_leaks", "As --noria-leaks.", type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers; begin to watch if an option says so."""
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    if (
        config.getoption("noria_loop")
        or config.getoption("noria_max_block")
        or config.getoption("noria_leaks")
        or config.getini("noria_loop")
        or config.getini("noria_max_block")
        or config.getini("noria_leaks")
    ):
        _begin(config)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Begin to watch if a test has one of the markers."""
    if not session.config.pluginmanager.has_plugin(CHECKS) and any(
        item.get_closest_marker("max_block") or item.get_closest_marker("no_leaks")
        for item in session.items
    ):
        _begin(session.config)


CHECKS = "noria-checks"


def _begin(config: pytest.Config) -> None:
    from noria.sight.pytest_checks import Checks

    config.pluginmanager.register(Checks(config), CHECKS)
