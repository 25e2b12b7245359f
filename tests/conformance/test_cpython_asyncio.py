"""CPython's own tests of asyncio, from the running Python, on noria's loop.

On the model that `auto` takes; NORIA_CONFORMANCE=all runs them on every model that drives asyncio,
NORIA_CONFORMANCE=select,poll on these.
"""

from __future__ import annotations

import asyncio
import asyncio.streams
import contextlib
import functools
import importlib
import os
import sys
import unittest
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

import noria.aio
import noria.aio.streams
from noria import models

pytest.importorskip("test.test_asyncio", reason="this Python came without its own tests")

from test.test_asyncio import utils as test_utils

DRIVERS = ("select", "poll", "epoll", "epoll-edge", "io_uring")

# Module and class (all its test cases if None), and how many tests Python 3.11 has of it; later
# ones have more.
CASES: tuple[tuple[str, str | None, int], ...] = (
    ("test_events", "EventLoopTestsMixin", 59),
    ("test_events", "SubprocessTestsMixin", 14),
    ("test_sock_lowlevel", "BaseSockTestsMixin", 13),
    ("test_sendfile", "SendfileTestsBase", 20),
    ("test_server", "BaseStartServer", 1),
    ("test_buffered_proto", "BaseTestBufferedProtocol", 1),
    ("test_sslproto", "BaseStartTLS", 11),
    ("test_ssl", "TestSSL", 22),
    ("test_subprocess", "SubprocessMixin", 29),
    ("test_streams", "StreamTests", 67),
    ("test_queues", None, 44),
    ("test_locks", None, 70),
    ("test_timeouts", None, 32),
    ("test_taskgroups", None, 35),
    ("test_server", "TestServer2", 2),
    ("test_eager_task_factory", None, 39),
    ("test_graph", None, 28),
)

# Modules that came later; their numbers above are of that version.
SINCE = {
    "TestServer2": (3, 12),
    "test_eager_task_factory": (3, 12),
    "test_graph": (3, 14),
}

# The tests of streams and pipes also run on noria's compiled streams.
COMPILED = (("test_streams", "StreamTests"), ("test_subprocess", "SubprocessMixin"))

# Tests of asyncio's internals: "Class.test" -> reason
_REPLACES_SOCKET = (
    "it replaces the module `socket` that asyncio.base_events imports, for addresses "
    "that no machine has; noria's create_server is in another module"
)
UNEQUAL: dict[str, str] = {
    "EventLoopTestsMixin.test_create_server_multiple_hosts_ipv4": _REPLACES_SOCKET,
    "EventLoopTestsMixin.test_create_server_multiple_hosts_ipv6": _REPLACES_SOCKET,
    "TestSSL.test_remote_shutdown_receives_trailing_data_on_slow_socket": (
        "it sets another socket as _sock of asyncio's own transport; what it tests is in "
        "test_a_peer_that_ends_and_reads_slowly_gets_all_that_was_written"
    ),
}
# Tests of UNEQUAL that never end: they are not run.
ENDLESS = {"TestSSL.test_remote_shutdown_receives_trailing_data_on_slow_socket"}

# These tests rely on the garbage collector and use deprecated functions.
pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def _temporary_working_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """These tests and their setUpClass create files in the working directory."""
    with contextlib.chdir(tmp_path_factory.mktemp("cpython")):
        yield


def _wanted() -> tuple[str, ...]:
    chosen = os.environ.get("NORIA_CONFORMANCE", "auto")
    names = DRIVERS if chosen == "all" else tuple(chosen.split(","))
    return tuple(models.choose()[0] if name == "auto" else name for name in names)


def _set_policy(policy: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        asyncio.set_event_loop_policy(policy)


@contextlib.contextmanager
def _compiled_streams() -> Iterator[None]:
    names = ("StreamReader", "StreamWriter", "StreamReaderProtocol")
    before = [(m, name, getattr(m, name)) for m in (asyncio, asyncio.streams) for name in names]
    noria.aio.streams.install()
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


def _marked(function: Any, mark: pytest.MarkDecorator) -> Any:
    """A marked copy of the test; the base class's function stays unmarked."""

    @functools.wraps(function)
    def marked(self: Any) -> Any:
        return function(self)

    return mark(marked)


def _bound(base: type, model: str, streams: bool = False) -> type[unittest.TestCase]:
    """A subclass of the test case whose loops are noria's on this model."""

    def make(self: Any) -> asyncio.AbstractEventLoop:
        return noria.aio.new_event_loop(model)

    def run(self: Any, result: Any = None) -> Any:
        _set_policy(noria.aio.EventLoopPolicy(model))
        try:
            with _compiled_streams() if streams else contextlib.nullcontext():
                return super(case, self).run(result)
        finally:
            _set_policy(None)

    def own_loop(self: Any) -> None:
        super(case, self).setUp()
        self.loop = noria.aio.new_event_loop(model)
        self.set_event_loop(self.loop)

    body: dict[str, Any] = {"create_event_loop": make, "new_loop": make, "run": run}
    if base.__name__ in ("SubprocessTestsMixin", "SubprocessMixin"):
        # In CPython another base class provides it.
        body["setUp"] = own_loop
    parents = (base,) if issubclass(base, unittest.TestCase) else (base, test_utils.TestCase)
    name = f"{base.__name__}_{model.replace('-', '_')}{'_compiled' if streams else ''}"
    case = type(name, parents, body)
    case.__module__ = __name__
    for name, reason in UNEQUAL.items():
        if name.startswith(f"{base.__name__}."):
            test = name.partition(".")[2]
            # Other Python versions may not have the test.
            if hasattr(base, test):
                mark = pytest.mark.xfail(reason=reason, strict=True, run=name not in ENDLESS)
                setattr(case, test, _marked(getattr(base, test), mark))
    return case


def _classes(module: ModuleType, name: str | None) -> list[type]:
    if name is not None:
        found = getattr(module, name, None)
        return [] if found is None else [found]
    return [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, unittest.TestCase)
        and value.__module__ == module.__name__
    ]


def _collect() -> dict[tuple[str, str | None, str], int]:
    """Make the test cases module attributes, for pytest; return the number of tests of each."""
    counts = {}
    for model in _wanted():
        for module_name, class_name, _ in CASES:
            if sys.version_info < SINCE.get(class_name or module_name, ()):
                continue
            count = 0
            module = importlib.import_module(f"test.test_asyncio.{module_name}")
            for base in _classes(module, class_name):
                case = _bound(base, model)
                globals()[case.__name__] = case
                count += len(unittest.defaultTestLoader.getTestCaseNames(case))
                if (module_name, class_name) in COMPILED:
                    case = _bound(base, model, streams=True)
                    globals()[case.__name__] = case
            counts[module_name, class_name, model] = count
    return counts


COUNTS = _collect()


@pytest.mark.parametrize("model", _wanted())
@pytest.mark.parametrize(("module", "name", "least"), CASES)
def test_no_case_is_missing(module: str, name: str | None, least: int, model: str) -> None:
    since = SINCE.get(name or module, ())
    if sys.version_info < since:
        pytest.skip(f"it came with Python {'.'.join(map(str, since))}")
    assert COUNTS[module, name, model] >= least
