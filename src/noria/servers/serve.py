"""noria.serve: a protocol on a port, until a signal ends it."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from noria import models
from noria.net.listening import Server, describe
from noria.reactor import Reactor

if TYPE_CHECKING:
    import asyncio

log = logging.getLogger("noria")

# on_connection("open" or "close", the peer's address, {"seconds": ..., "error": ...})
OnConnection = Callable[[str, str, dict[str, Any]], object]


@dataclass(frozen=True)
class ServerInfo:
    """What `ready` is told: where a server listens and on which model; `stop()` ends it."""

    addresses: list[str]
    model: str
    reason: str
    pid: int
    stop: Callable[[], None] = field(repr=False, default=lambda: None)


@dataclass
class Summary:
    """What a server did. `busy` and `waiting` in seconds, of all workers together."""

    connections: int = 0
    messages: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    busy: float = 0.0
    waiting: float = 0.0
    workers: int = 1


@dataclass(frozen=True)
class Plan:
    """What serve was asked for."""

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


def serve(
    protocol_factory: Callable[[], asyncio.BaseProtocol],
    host: str | None = "127.0.0.1",
    port: int = 0,
    *,
    unix: str | None = None,
    model: str = "auto",
    interval: float = 0.001,
    workers: int = 1,
    grace: float = 30.0,
    backlog: int = 1024,
    ready: Callable[[ServerInfo], object] | None = None,
    on_connection: OnConnection | None = None,
) -> Summary:
    """Serves an asyncio.Protocol class until SIGINT, SIGTERM or SIGHUP; returns what was done.

    `host`: a name or address, None for all of this machine; `port` 0 takes a free one. `unix`: the
    path of a Unix socket instead. `model` and `interval`: as for Reactor. `workers`: processes that
    share the port (SO_REUSEPORT); one that dies is started again. SIGTERM accepts no more and lets
    open connections finish, `grace` seconds at most; SIGINT ends them at once. SIGHUP, which comes
    when the terminal is closed, is as SIGTERM, unless it is ignored (nohup(1)) or the program has a
    handler for it. `ready` is called once with a ServerInfo when connections are accepted. Called
    from another thread than the main one, it ends by ``ServerInfo.stop``.

    Raises OSError that names the address, ModelUnavailable, UnknownModel, Unsupported, ModelLimit.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, not {workers}")
    if grace < 0:
        raise ValueError(f"grace must be 0 or more seconds, not {grace}")
    plan = Plan(protocol_factory, host, port, unix, model, interval, grace, backlog, on_connection)
    if workers > 1:
        from noria.servers.supervisor import supervise

        return supervise(plan, workers, ready)
    return serve_here(plan, ready)


def serve_here(plan: Plan, ready: Callable[[ServerInfo], object] | None) -> Summary:
    """One process: listens, runs, ends by a signal, and sums up."""
    with Reactor(plan.model, interval=plan.interval) as reactor:
        server = reactor.listen(
            plan.protocol_factory,
            plan.host,
            plan.port,
            unix=plan.unix,
            sock=plan.sock,
            backlog=plan.backlog,
            reuse_port=plan.reuse_port,
        )
        if plan.on_connection is not None:
            watch_connections(server, plan.on_connection)
        if threading.current_thread() is threading.main_thread():
            ending = _Ending(reactor, server, plan.grace)
            reactor.signal(signal.SIGINT, ending.now)
            reactor.signal(signal.SIGTERM, ending.gently)
            if ends_by_hangup():
                reactor.signal(signal.SIGHUP, ending.gently)
        if ready is not None:
            reason = models.choose()[1] if plan.model == "auto" else ""
            ready(ServerInfo(server.addresses, reactor.model, reason, os.getpid(), reactor.stop))
        reactor.run()
        reactor.close()
        counts, usage = reactor.loop.model.stats(), reactor.loop.usage()
        return Summary(
            counts["connections"],
            counts["messages"],
            counts["bytes_in"],
            counts["bytes_out"],
            usage["busy"],
            usage["waiting"],
        )


def ends_by_hangup() -> bool:
    """Whether SIGHUP ends a server: not if it is ignored, as by nohup(1), or has a handler."""
    return signal.getsignal(signal.SIGHUP) == signal.SIG_DFL


class _Ending:
    """What the signals do to a server."""

    def __init__(self, reactor: Reactor, server: Server, grace: float):
        self.reactor = reactor
        self.server = server
        self.until = 0.0
        self.grace = grace

    def now(self, number: int) -> None:
        """SIGINT: accepts no more and ends the connections."""
        self.server.abort()
        self.reactor.stop()

    def gently(self, number: int) -> None:
        """SIGTERM, SIGHUP: accepts no more, waits for the connections.

        A second SIGTERM is as SIGINT. A second SIGHUP is not: a worker gets one from the terminal
        and one from its parent.
        """
        if self.until:
            if number != signal.SIGHUP:
                self.now(number)
            return
        self.until = time.monotonic() + self.grace
        self.server.close()
        self.look()

    def look(self) -> None:
        open_now = len(self.server.streams)
        if not open_now:
            self.reactor.stop()
        elif time.monotonic() >= self.until:
            log.warning("%d connections did not finish in %g s: ended", open_now, self.grace)
            self.now(0)
        else:
            self.reactor.call_later(0.05, self.look)


def watch_connections(server: Server, on_connection: OnConnection) -> None:
    """Tells of each connection when it opens and closes."""
    opened: dict[Any, tuple[str, float]] = {}

    def on_open(stream: Any) -> None:
        sock = stream.get_extra_info("socket")
        name = stream.get_extra_info("peername")
        peer = describe(sock.family, name) if name else "a local client"
        opened[stream] = (peer, time.monotonic())
        on_connection("open", peer, {})

    def on_close(stream: Any, error: BaseException | None) -> None:
        peer, since = opened.pop(stream, ("unknown", time.monotonic()))
        on_connection(
            "close",
            peer,
            {"seconds": time.monotonic() - since, "error": str(error) if error else None},
        )

    server.streams.on_open = on_open
    server.streams.on_close = on_close
