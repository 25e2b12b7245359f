"""What a server is given and what it reports: its configuration, addresses and summary."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

# on_connection("open" or "close", the peer's address, {"seconds": ..., "error": ...})
OnConnection = Callable[[str, str, dict[str, Any]], object]


@dataclass(frozen=True)
class ServerInfo:
    """The argument of `ready`: the server's addresses, its model and why it was chosen.

    `stop()` stops the server, from any thread.
    """

    addresses: list[str]
    model: str
    reason: str
    pid: int
    stop: Callable[[], None] = field(repr=False, default=lambda: None)


OnReady = Callable[[ServerInfo], object]


@dataclass
class Summary:
    """Totals over all workers. `busy` and `waiting` are in seconds."""

    connections: int = 0
    messages: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    busy: float = 0.0
    waiting: float = 0.0
    workers: int = 1

    def add(self, other: Summary) -> None:
        """Add the totals of another worker; `workers` is not a total."""
        for each in dataclasses.fields(self):
            if each.name != "workers":
                value = getattr(self, each.name) + getattr(other, each.name)
                setattr(self, each.name, value)

    def encode(self) -> bytes:
        """Return the totals in JSON, for the parent process."""
        return json.dumps(dataclasses.asdict(self)).encode()

    @classmethod
    def decode(cls, encoded: bytes) -> Summary:
        """Return what `encode` has encoded."""
        return cls(**json.loads(encoded))


@dataclass(frozen=True)
class ServeConfig:
    """The arguments of `noria.serve`, and for a worker what its parent adds to them."""

    protocol_factory: Callable[[], asyncio.BaseProtocol]
    host: str | None
    port: int
    unix: str | None
    model: str
    interval: float
    grace: float
    backlog: int
    on_connection: OnConnection | None
    reuse_port: bool = False
    sock: socket.socket | None = None
