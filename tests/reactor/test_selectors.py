"""noria.selector under CPython's own tests of selectors, model by model, and tests of its own.

Tests that an edge-triggered selector cannot pass are listed in EXCEPTIONS, with the reasons that
docs/selectors.md has.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import selectors
import socket
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import noria
from noria import models
from noria.selectors import SELECTORS

try:
    # Imported as a whole: pytest must not collect CPython's own cases here.
    from test import test_selectors as theirs
except ImportError:  # a Python installed without its tests
    theirs = None  # type: ignore[assignment]

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE

# (model, test): why it cannot pass. Each must fail, or this list is wrong.
EXCEPTIONS: dict[tuple[str, str], str] = {
    ("epoll-edge", "test_selector"): (
        "polls repeatedly and writes to one ready socket each time; edge-triggered, the sockets "
        "that were reported and not written to are not reported again"
    ),
    ("epoll-edge", "test_timeout"): (
        "polls twice for a writable socket without using it in between and expects two reports; "
        "edge-triggered, there is one"
    ),
}

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
            # Without a second report the test would wait forever.
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


@pytest.mark.skipif(theirs is None, reason="this Python is installed without its test package")
def test_cpythons_tests_were_found() -> None:
    """An empty collection would pass."""
    base, scalable = 19, 1
    for name in SELECTORS:
        expected = base + (scalable if name in SCALABLE else 0)
        assert len(cases(name)) >= expected, cases(name)
    assert {case for _, case in EXCEPTIONS} <= set(cases("epoll"))
    assert "test_select" in cases("select")
    assert "test_above_fd_setsize" not in cases("select")


def test_the_documented_exceptions_are_these() -> None:
    text = (Path(__file__).parents[2] / "docs" / "selectors.md").read_text()
    rows = re.findall(r"^\| `([\w-]+)` \| `(test_\w+)` \| (.+?) \|$", text, re.MULTILINE)
    assert {(model, case): reason for model, case, reason in rows} == EXCEPTIONS


# What is noria's own.


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    here, there = socket.socketpair()
    here.setblocking(False)
    there.setblocking(False)
    with here, there:
        yield here, there


def test_is_a_selector_that_knows_its_model(model: str) -> None:
    with noria.selector(model) as selector:
        assert isinstance(selector, selectors.BaseSelector)
        assert selector.model == model  # type: ignore[attr-defined]


def test_level_reports_while_ready_and_edge_once(model: str, pair: Any) -> None:
    here, there = pair
    with noria.selector(model) as selector:
        key = selector.register(here, READ)
        assert selector.select(0) == []
        there.send(b"abc")
        reported = [selector.select(0.2 if turn == 0 else 0) for turn in range(5)]
        assert reported[0] == [(key, READ)]
        if model == "epoll-edge":
            assert reported[1:] == [[]] * 4
            there.send(b"d")
            assert selector.select(1) == [(key, READ)], "a new byte is a new edge"
            assert selector.select(0) == []
            assert here.recv(10) == b"abcd"
        else:
            assert reported[1:] == [[(key, READ)]] * 4
            assert here.recv(1) == b"a"
            assert selector.select(1) == [(key, READ)], "bytes are left"
            assert here.recv(10) == b"bc"
        assert selector.select(0) == []


def test_writable(model: str, pair: Any) -> None:
    here, there = pair
    with noria.selector(model) as selector:
        key = selector.register(here, WRITE)
        assert selector.select(1) == [(key, WRITE)]
        with pytest.raises(BlockingIOError):
            while True:
                here.send(bytes(65536))
        assert selector.select(0) == []
        with pytest.raises(BlockingIOError):
            while True:
                there.recv(1 << 20)
        assert selector.select(5) == [(key, WRITE)]


def test_both_at_once_and_changes(model: str, pair: Any) -> None:
    here, there = pair
    there.send(b"x")
    with noria.selector(model) as selector:
        selector.register(here, READ)
        assert [mask for _, mask in selector.select(1)] == [READ]
        selector.modify(here, READ | WRITE, "both")
        masks = 0
        for key, mask in selector.select(1):
            assert key.data == "both"
            masks |= mask
        assert masks == READ | WRITE
        selector.modify(here, WRITE)
        assert [mask for _, mask in selector.select(1)] == [WRITE]
        here.recv(1)
        selector.modify(here, READ)
        assert selector.select(0) == []
        there.send(b"y")
        assert [mask for _, mask in selector.select(1)] == [READ]


def test_the_end_of_the_stream_is_readable(model: str, pair: Any) -> None:
    here, there = pair
    with noria.selector(model) as selector:
        selector.register(here, READ)
        there.close()
        assert [mask for _, mask in selector.select(1)] == [READ]
        assert here.recv(1) == b""


def test_pipes(model: str) -> None:
    reader, writer = os.pipe()
    try:
        with noria.selector(model) as selector:
            selector.register(reader, READ)
            key = selector.register(writer, WRITE)
            assert selector.select(1) == [(key, WRITE)]
            os.write(writer, b"x")
            selector.unregister(writer)
            assert [(key.fd, mask) for key, mask in selector.select(1)] == [(reader, READ)]
    finally:
        os.close(reader)
        os.close(writer)


def test_a_bad_descriptor_leaves_no_key(model: str) -> None:
    with noria.selector(model) as selector:
        fd = os.open("/dev/null", os.O_RDONLY)
        os.close(fd)
        with pytest.raises(OSError, match="Bad file descriptor"):
            selector.register(fd, READ)
        assert len(selector.get_map()) == 0
        with pytest.raises(ValueError, match="-1"):
            selector.register(-1, READ)
        with pytest.raises(ValueError, match="event"):
            selector.register(0, 0)


def test_only_the_ready_of_many_are_reported(model: str) -> None:
    """Of 100 sockets, those that got a byte are reported, and no others."""
    pairs = [socket.socketpair() for _ in range(100)]
    try:
        with noria.selector(model) as selector:
            for number, (here, _) in enumerate(pairs):
                selector.register(here, READ, number)
            for turn in range(5):
                wanted = set(range(turn, 100, 7 + turn))
                for number in wanted:
                    pairs[number][1].send(b"x")
                reported: set[int] = set()
                while len(reported) < len(wanted):
                    ready = selector.select(1)
                    assert ready
                    reported.update(key.data for key, _ in ready)
                assert reported == wanted
                for number in wanted:
                    assert pairs[number][0].recv(10) == b"x"
    finally:
        for here, there in pairs:
            here.close()
            there.close()


@pytest.mark.parametrize("name", ["blocking", "threaded", "nonblocking"])
def test_models_that_cannot(name: str) -> None:
    with pytest.raises(noria.Unsupported, match=f"'{name}' cannot be a selector.*epoll"):
        noria.selector(name)


def test_an_unknown_model() -> None:
    with pytest.raises(noria.UnknownModel, match="epoll"):
        noria.selector("epol")


def test_select_refuses_high_descriptors() -> None:
    here, there = socket.socketpair()
    with here, there, noria.selector("select") as selector:
        high = os.dup(here.fileno())
        try:
            while high < 1024:
                low, high = high, fcntl.fcntl(high, fcntl.F_DUPFD, 1024)
                os.close(low)
            with pytest.raises(noria.ModelLimit, match=r"descriptor \d+: only numbers below 1024"):
                selector.register(high, READ)
            assert len(selector.get_map()) == 0
        finally:
            os.close(high)


def test_asyncio_runs_on_it(model: str) -> None:
    """asyncio's loop takes any selector; an edge-triggered one would make it wait forever."""
    if model == "epoll-edge":
        pytest.skip("asyncio's own loop needs level-triggered meaning")

    async def echo() -> bytes:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(1000):
                writer.write(data)
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"z" * 200_000)
        writer.write_eof()
        data = await reader.read()
        writer.close()
        await writer.wait_closed()
        server.close()
        return data

    with asyncio.Runner(
        loop_factory=lambda: asyncio.SelectorEventLoop(noria.selector(model))
    ) as runner:
        assert runner.run(echo()) == b"z" * 200_000
