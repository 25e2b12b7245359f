"""The URLs of brokers, and the messages for what is wrong with them."""

from __future__ import annotations

import ast
import asyncio
import math
import socket
import subprocess
import sys
from typing import Any

import pytest

import noria
from noria.bus.brokers import table
from noria.bus.stats import SECONDS, Histogram
from noria.bus.url import parse
from noria.errors import InvalidBrokerURL


def test_a_url_in_its_parts() -> None:
    url = parse("nats://me:p%40ss@one:4222,[::1]:4223,three/p%20q?keep=7d&partitions=8")
    assert url.scheme == "nats"
    assert url.hosts == (("one", 4222), ("::1", 4223), ("three", None))
    assert (url.user, url.password, url.path) == ("me", "p@ss", "/p q")
    assert url.seconds("keep", 1.0) == 7 * 86400
    assert url.seconds("claim", 1.5) == 1.5
    assert url.integer("partitions", 16) == 8
    assert url.integer("other", 16) == 16
    assert url.shown == "nats://one:4222,[::1]:4223,three/p%20q?keep=7d&partitions=8"
    assert "p@ss" not in repr(url).replace(url.text, "")
    assert parse("memory:name").path == "name"
    assert parse("memory:name?limit=5").options == {"limit": "5"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no broker's URL; examples: memory:, nats://"),
        ("localhost", "is no broker's URL"),
        ("//localhost", "is no broker's URL"),
        ("nats://", "has no host; write nats://127.0.0.1"),
        ("redis://host:port", "'host:port' is no host with a port"),
        ("redis://host:0", "no host with a port"),
        ("redis://host:70000", "no host with a port"),
        ("redis://[::1", "is no broker's URL|no host with a port"),
        ("redis://host?keep", "options are written as"),
        ("natz://host", "no broker has the scheme 'natz'; did you mean nats?"),
        (
            "amqp://me:secret@host",
            "^amqp://host: no broker has the scheme 'amqp'; noria has memory",
        ),
        ("memory:?limit=0", "limit=0 must be a number from 1 to"),
        ("memory:?limit=many", "limit=many must be a number"),
        ("memory:?size=3", "unknown option 'size'; memory has: limit"),
    ],
)
def test_what_is_wrong_is_said(text: str, message: str) -> None:
    with pytest.raises(InvalidBrokerURL, match=message) as info:
        noria.Bus(text)
    assert "secret" not in str(info.value)


@pytest.mark.parametrize(
    "text",
    [
        "redis://:secret@127.0.0.1:99999",
        "redis://me:secret@",
        "redis://:sec/secret@host",
        "redis://me:12/secret@host",
        "redis://:sec?secret@host",
        "redis://me:12?a=secret@host",
        "redis://:sec#secret@host",
        "redis://:secret@host?x",
        "redis://:sec@secret@host?x",
        "redis://:secret@host/secret@",
        "redis://:secret@host?limit=1",
        "redis://:secret@host:1?keep=no",
        "redis::secret@host?limit=1",
        "natz://:sec@secret@host",
        "me:secret@host",
        ":secret@host",
        "Redis://:secret@host",
        "//me:secret@host",
        "nats://secret@host:no",
        "nats://sec/secret@host",
    ],
)
def test_no_message_contains_a_password(text: str) -> None:
    pytest.importorskip("nats")
    pytest.importorskip("redis")
    with pytest.raises(InvalidBrokerURL) as info:
        noria.Bus(text)
    assert "secret" not in str(info.value)


def test_a_shown_url_has_no_password() -> None:
    url = parse("redis://me:p@ss@host:1/0?keep=7d")
    assert (url.user, url.password) == ("me", "p@ss")
    assert url.shown == "redis://host:1/0?keep=7d"
    assert "p@ss" not in repr(url)
    assert "p@ss" not in str(url.unavailable("gone"))
    assert parse("redis://me:a%2F%3F%23@host").password == "a/?#"
    assert parse("nats://host?creds=/home/me%40host").options == {"creds": "/home/me@host"}


@pytest.mark.parametrize("value", ["", "x", "5 m", "-3", "0", "1w", "1.5.2s"])
def test_a_time_that_is_none_is_named(value: str) -> None:
    with pytest.raises(InvalidBrokerURL, match="is no time; write it as 90s, 15m, 24h or 7d"):
        parse(f"redis://host?keep={value}").seconds("keep", 1.0)


@pytest.mark.parametrize(("value", "seconds"), [("90", 90), ("500ms", 0.5), ("1.5h", 5400)])
def test_times(value: str, seconds: float) -> None:
    assert parse(f"redis://host?keep={value}").seconds("keep", 1.0) == seconds


def test_a_broker_that_is_not_there_says_what_to_start() -> None:
    url = table.parse_url("nats://me:secret@127.0.0.1:4222")
    error = url.unavailable(ConnectionRefusedError(111, "Connect call failed"))
    assert str(error) == (
        "no broker at nats://127.0.0.1:4222: connection refused; start one with: nats-server -js"
    )
    error = url.unavailable(socket.gaierror(-2, "Name or service not known"))
    assert "name or service not known" in str(error)


def test_a_missing_client_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = table.Adapter("missing_client_of_a_broker", "Broker", "redis")
    monkeypatch.setitem(table.ADAPTERS, "redis", adapter)
    with pytest.raises(ImportError, match=r"pip install 'noria\[redis\]'"):
        noria.Bus("redis://host")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"concurrency": 0}, "concurrency must be an integer of 1 or more, not 0"),
        ({"concurrency": 1.5}, "concurrency must be an integer"),
        ({"concurrency": math.nan}, "concurrency must be an integer"),
        ({"claim": -1}, "claim must be"),
        ({"claim": math.nan}, "claim must be a number of seconds above 0 and up to 1e.09, not"),
        ({"claim": math.inf}, "claim must be"),
        ({"emit_timeout": math.nan}, "emit_timeout must be"),
        ({"max_event_size": 0.5}, "max_event_size must be"),
        ({"emit_timeout": None}, "emit_timeout must be"),
        ({"max_event_size": True}, "max_event_size must be"),
    ],
)
def test_options_of_a_bus_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        noria.Bus("memory:", **options)


@pytest.mark.parametrize(
    ("type", "options", "message"),
    [
        ("a b", {}, "is no type of an event"),
        ("a", {"group": "with.dot"}, "is no name of a group"),
        ("a", {"group": ""}, "is no name of a group"),
        ("*", {"group": "g"}, "a handler without a group"),
        ("a", {"retries": -1}, "retries must be an integer of 0 or more"),
        ("a", {"retries": 1.5}, "retries must be"),
        ("a", {"retries": "3"}, "retries must be"),
        ("a", {"concurrency": 0}, "concurrency must be"),
        ("a", {"concurrency": 1.5}, "concurrency must be"),
        ("a", {"claim": math.inf}, "claim must be"),
        ("a", {"start": "middle"}, "'oldest' or 'newest'"),
        ("a", {"backoff": 0}, "backoff must be"),
        ("a", {"backoff": math.nan}, "backoff must be"),
        ("a", {"max_backoff": math.inf}, "max_backoff must be"),
    ],
)
def test_options_of_handlers_are_checked(type: str, options: dict[str, Any], message: str) -> None:
    bus = noria.Bus()
    with pytest.raises(ValueError, match=message):
        bus.on(type, lambda event: None, **options)
    assert bus.registrations == []


@pytest.mark.parametrize("handler", [5, "x", object()])
def test_what_cannot_be_called_is_no_handler(handler: Any) -> None:
    with pytest.raises(TypeError, match="a handler is a function or another callable, not "):
        noria.Bus().on("a", handler)


@pytest.mark.parametrize("seconds", [-1, math.nan, math.inf, 1e10])
def test_times_of_an_event_are_checked(seconds: float) -> None:
    async def main() -> None:
        async with noria.Bus() as bus:
            with pytest.raises(ValueError, match=r"delay must be 0 to 1e\+09 seconds"):
                bus.emit("a", delay=seconds)
            with pytest.raises(ValueError, match="timeout must be above 0 and up to"):
                await bus.publish(noria.Event("a"), timeout=seconds)
            with pytest.raises(ValueError, match="timeout must be"):
                await bus.replay([], timeout=seconds)

    asyncio.run(main())


def test_a_group_has_one_handler_of_a_type_in_a_bus() -> None:
    bus = noria.Bus()
    bus.on("a", lambda event: None, group="g")
    bus.on("a", lambda event: None, group="h")
    bus.on("b", lambda event: None, group="g")
    bus.on("a", lambda event: None)
    bus.on("a", lambda event: None)
    with pytest.raises(ValueError, match="give each handler its own group"):
        bus.on("a", lambda event: None, group="g")


def test_importing_noria_imports_no_client() -> None:
    program = (
        "import noria, sys; bus = noria.Bus(); "
        "print([m for m in ('nats', 'redis', 'opentelemetry', 'click') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert ast.literal_eval(done.stdout) == []


def test_quantiles_are_bounds_of_buckets() -> None:
    histogram = Histogram()
    assert histogram.quantile(0.5) is None
    for seconds in [0.0004] * 50 + [0.003] * 49 + [100.0]:
        histogram.observe(seconds)
    assert histogram.quantile(0.5) == 0.0005
    assert histogram.quantile(0.99) == 0.005
    assert histogram.quantile(1.0) == float("inf")
    assert histogram.count == sum(histogram.counts) == 100
    assert len(histogram.as_dict()["buckets"]) == len(SECONDS) + 1
