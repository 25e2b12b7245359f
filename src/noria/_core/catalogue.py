"""What there is to know of each model without having one: the one table that all else reads."""

from __future__ import annotations

from typing import NamedTuple

from noria.errors import UnknownModel

CAPABILITIES = (
    "connections",
    "accept",
    "connect",
    "receive",
    "send",
    "readiness",
    "timers",
    "wake",
    "udp",
    "files",
    "asyncio",
)


class ModelInfo(NamedTuple):
    """One way of doing I/O, in words. `synchronous`: some part of it makes the process wait."""

    name: str
    summary: str
    trigger: str
    waits: str
    copies: str
    learns: str
    limit: str
    synchronous: bool
    capabilities: dict[str, str]


def _capabilities(text: str) -> dict[str, str]:
    words = {"+": "native", "~": "emulated", "-": "none"}
    return dict(zip(CAPABILITIES, (words[mark] for mark in text.split()), strict=True))


_INFOS = (
    # The marks stand for CAPABILITIES, in their order.
    ModelInfo(
        "blocking",
        "one connection at a time; every call sleeps until it is done",
        "none",
        "process, asleep in accept or recv",
        "process, in recv",
        "the call returns",
        "one",
        True,
        _capabilities("- + + + + - ~ ~ + + -"),
    ),
    ModelInfo(
        "threaded",
        "a thread for each connection; each sleeps in its own calls",
        "none",
        "one thread for each connection, asleep in recv",
        "the thread, in recv",
        "the call returns",
        "one a thread",
        True,
        _capabilities("~ + ~ + + - + + + ~ -"),
    ),
    ModelInfo(
        "nonblocking",
        "sockets asked in turn, again and again, with a pause between rounds",
        "none",
        "process, asking and asking again",
        "process, in recv",
        "asking",
        "many, each costs an ask a round",
        True,
        _capabilities("+ + + + + ~ + + + ~ -"),
    ),
    ModelInfo(
        "select",
        "asleep in select; three sets of bits go to the kernel and back each time",
        "level",
        "process, asleep in select",
        "process, in recv",
        "scanning every descriptor",
        "descriptor numbers below 1024",
        True,
        _capabilities("+ + + + + + + + + ~ +"),
    ),
    ModelInfo(
        "poll",
        "asleep in poll; an array of descriptors goes to the kernel each time",
        "level",
        "process, asleep in poll",
        "process, in recv",
        "scanning every descriptor",
        "many, each costs a look a wait",
        True,
        _capabilities("+ + + + + + + + + ~ +"),
    ),
    ModelInfo(
        "epoll",
        "asleep in epoll_wait; the kernel keeps the set and tells what is ready",
        "level",
        "process, asleep in epoll_wait",
        "process, in recv",
        "a list of what is ready, while it is",
        "many",
        True,
        _capabilities("+ + + + + + + + + ~ +"),
    ),
    ModelInfo(
        "epoll-edge",
        "the same, told once for each change; drained to EAGAIN",
        "edge",
        "process, asleep in epoll_wait",
        "process, in recv, drained to EAGAIN",
        "once, when it becomes ready",
        "many",
        True,
        _capabilities("+ + + + + + + + + ~ +"),
    ),
    ModelInfo(
        "io_uring",
        "requests in a ring, completions in another; the kernel has copied already",
        "completion",
        "nobody: the process is free",
        "kernel, before the completion",
        "a completion: the data is already here",
        "many",
        False,
        _capabilities("+ + + + + + + + ~ + +"),
    ),
    ModelInfo(
        "simulated",
        "for tests: a network in memory, a virtual clock and seeded faults",
        "level",
        "nobody: the clock jumps",
        "process, from memory",
        "a schedule drawn from the seed",
        "many",
        True,
        _capabilities("+ + + + + - + + - - -"),
    ),
)

_BY_NAME = {entry.name: entry for entry in _INFOS}

MODELS = tuple(name for name in _BY_NAME if name != "simulated")

# What to take instead where a model has a "none".
_INSTEAD = {
    "connections": "threaded, epoll or io_uring",
    "readiness": "select, poll, epoll, epoll-edge or io_uring",
    "udp": "any other model",
    "files": "any other model",
    "asyncio": "select, poll, epoll, epoll-edge or io_uring",
}

_WHY = {
    "connections": "it is asleep in one call for one connection",
    "readiness": "it has no call that waits for several descriptors",
    "asyncio": "an event loop must wait for many descriptors and timers in one place",
}


def info(name: str) -> ModelInfo:
    """What there is to know of the model. Raises UnknownModel, which lists the names."""
    try:
        return _BY_NAME[name]
    except KeyError:
        import difflib  # here, as who makes no mistake need not wait for it

        close = difflib.get_close_matches(name, [*_BY_NAME, "auto"], 1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise UnknownModel(
            f"there is no model {name!r}{hint}; the models are {', '.join(MODELS)} and auto"
        ) from None


def refusal(name: str, kind: str) -> str:
    """Why the model cannot do `kind`, and what can."""
    why = f": {_WHY[kind]}" if kind in _WHY else ""
    return f"the model {name!r} has no {kind!r}{why}. Use {_INSTEAD.get(kind, 'another model')}"
