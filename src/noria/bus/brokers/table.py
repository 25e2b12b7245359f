"""Which adapter serves which URL. A broker more is a file beside this one and a line here."""

from __future__ import annotations

import difflib
import importlib
from typing import NamedTuple, cast

from noria.bus.contract import Broker
from noria.bus.url import BrokerURL, parse
from noria.errors import BusError, InvalidBrokerURL


class Adapter(NamedTuple):
    """Where an adapter is, the extra that its package comes with, and how to start its broker."""

    module: str
    name: str
    extra: str = ""
    start: str = ""


_MEMORY = Adapter("noria.bus.brokers.memory", "MemoryBroker")
_NATS = Adapter("noria.bus.brokers.nats.broker", "NATSBroker", "nats", "nats-server -js")
_REDIS = Adapter("noria.bus.brokers.redis", "RedisBroker", "redis", "redis-server --appendonly yes")

ADAPTERS = {
    "memory": _MEMORY,
    "nats": _NATS,
    "nats+tls": _NATS,
    "redis": _REDIS,
    "rediss": _REDIS,
    "redis+unix": _REDIS,
    "valkey": _REDIS,
    "valkeys": _REDIS,
}


class MissingPackage(BusError, ImportError):
    """The package of a broker's client is not installed."""


def parse_url(text: str) -> BrokerURL:
    """Return the parts of a broker's URL; raise InvalidBrokerURL if no adapter serves it."""
    if not isinstance(text, str):
        raise TypeError(f"a broker's URL is a str, not {type(text).__name__}")
    url = parse(text, ADAPTERS.get(text.partition(":")[0], _MEMORY).start)
    if url.scheme not in ADAPTERS:
        close = difflib.get_close_matches(url.scheme, ADAPTERS, 1)
        hint = f"did you mean {close[0]}?" if close else f"noria has {', '.join(ADAPTERS)}"
        raise InvalidBrokerURL(f"{url.shown}: no broker has the scheme {url.scheme!r}; {hint}")
    return url


def make(text: str, worker: str) -> Broker:
    """Return the broker of a URL, not connected yet.

    Raises InvalidBrokerURL, or MissingPackage if the client's package is not installed.
    """
    url = parse_url(text)
    adapter = ADAPTERS[url.scheme]
    try:
        module = importlib.import_module(adapter.module)
    except ImportError as error:
        if error.name and error.name.startswith("noria."):
            raise
        raise MissingPackage(
            f"{url.shown} needs the package {error.name!r}: pip install 'noria[{adapter.extra}]'"
        ) from None
    return cast("Broker", getattr(module, adapter.name)(url, worker))
