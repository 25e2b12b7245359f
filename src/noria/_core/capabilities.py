"""The names of the models and their capabilities.

Apart from the catalogue, whose descriptions a program that starts does not need.
"""

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

# The marks stand for CAPABILITIES, in their order: + native, ~ emulated, - none.
_MARKS = {
    "blocking": "- + + + + - ~ ~ + + -",
    "threaded": "~ + ~ + + - + + + ~ -",
    "nonblocking": "+ + + + + ~ + + + ~ -",
    "select": "+ + + + + + + + + ~ +",
    "poll": "+ + + + + + + + + ~ +",
    "epoll": "+ + + + + + + + + ~ +",
    "epoll-edge": "+ + + + + + + + + ~ +",
    "io_uring": "+ + + + + + + + ~ + +",
    "simulated": "+ + + + + - + + - - -",
}
_WORDS = {"+": "native", "~": "emulated", "-": "none"}

NAMES = tuple(_MARKS)

MODELS = tuple(name for name in NAMES if name != "simulated")


def capabilities_of(name: str) -> dict[str, str]:
    """Return ``"native"``, ``"emulated"`` or ``"none"`` for each of CAPABILITIES."""
    marks = _MARKS[name].split()
    return {kind: _WORDS[mark] for kind, mark in zip(CAPABILITIES, marks, strict=True)}
