"""The catalogue of models: names, descriptions and capabilities."""

# Without `from __future__ import annotations`: NamedTuple would compile each annotation.
from typing import NamedTuple

from noria._core.capabilities import MODELS, capabilities_of
from noria.errors import UnknownModel


class ModelInfo(NamedTuple):
    """The description of a model. `synchronous`: the process waits during a part of the I/O."""

    name: str
    summary: str
    trigger: str
    waits: str
    copies: str
    learns: str
    limit: str
    synchronous: bool
    capabilities: dict[str, str]


_INFOS = (
    ModelInfo(
        "blocking",
        "one connection at a time; every call blocks until it is complete",
        "none",
        "process, blocked in accept or recv",
        "process, in recv",
        "the call returns",
        "one",
        True,
        capabilities_of("blocking"),
    ),
    ModelInfo(
        "threaded",
        "a thread for each connection; each blocks in its own calls",
        "none",
        "one thread for each connection, blocked in recv",
        "the thread, in recv",
        "the call returns",
        "one per thread",
        True,
        capabilities_of("threaded"),
    ),
    ModelInfo(
        "nonblocking",
        "sockets polled one after the other, with a pause between rounds",
        "none",
        "process, polling repeatedly",
        "process, in recv",
        "polling",
        "many, each polled every round",
        True,
        capabilities_of("nonblocking"),
    ),
    ModelInfo(
        "select",
        "blocked in select; three bit sets are copied to the kernel and back at each call",
        "level",
        "process, blocked in select",
        "process, in recv",
        "scanning every descriptor",
        "descriptor numbers below 1024",
        True,
        capabilities_of("select"),
    ),
    ModelInfo(
        "poll",
        "blocked in poll; an array of descriptors is copied to the kernel at each call",
        "level",
        "process, blocked in poll",
        "process, in recv",
        "scanning every descriptor",
        "many, each checked at every call",
        True,
        capabilities_of("poll"),
    ),
    ModelInfo(
        "epoll",
        "blocked in epoll_wait; the kernel keeps the set and returns what is ready",
        "level",
        "process, blocked in epoll_wait",
        "process, in recv",
        "a list of what is ready, at every call",
        "many",
        True,
        capabilities_of("epoll"),
    ),
    ModelInfo(
        "epoll-edge",
        "as epoll, reported once for each change; read until EAGAIN",
        "edge",
        "process, blocked in epoll_wait",
        "process, in recv, until EAGAIN",
        "a list of what became ready, once",
        "many",
        True,
        capabilities_of("epoll-edge"),
    ),
    ModelInfo(
        "io_uring",
        "requests in one ring, completions in another; the kernel copies the data",
        "completion",
        "nothing: the process is free",
        "kernel, before the completion",
        "a completion, after the data was copied",
        "many",
        False,
        capabilities_of("io_uring"),
    ),
    ModelInfo(
        "simulated",
        "for tests: a network in memory, a virtual clock and seeded faults",
        "level",
        "nothing: the clock jumps",
        "process, from memory",
        "a schedule drawn from the seed",
        "many",
        True,
        capabilities_of("simulated"),
    ),
)

_BY_NAME = {entry.name: entry for entry in _INFOS}

# What to use instead of a model that lacks a capability.
_INSTEAD = {
    "connections": "threaded, epoll or io_uring",
    "readiness": "select, poll, epoll, epoll-edge or io_uring",
    "udp": "any other model",
    "files": "any other model",
    "asyncio": "select, poll, epoll, epoll-edge or io_uring",
}

_WHY = {
    "connections": "it blocks in one call for one connection",
    "readiness": "it has no call that waits for several descriptors",
    "asyncio": "an event loop must wait for many descriptors and timers in one place",
}


def info(name: str) -> ModelInfo:
    """Return the description of a model. Raises UnknownModel, which lists the names."""
    try:
        return _BY_NAME[name]
    except KeyError:
        import difflib  # only needed for the error

        close = difflib.get_close_matches(name, [*_BY_NAME, "auto"], 1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise UnknownModel(
            f"there is no model {name!r}{hint}; the models are {', '.join(MODELS)} and auto"
        ) from None


def refusal(name: str, kind: str) -> str:
    """Return why the model lacks the capability `kind`, and what to use instead."""
    why = f": {_WHY[kind]}" if kind in _WHY else ""
    return f"the model {name!r} has no {kind!r}{why}. Use {_INSTEAD.get(kind, 'another model')}"
