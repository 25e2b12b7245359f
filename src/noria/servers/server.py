"""A server in this process: it listens, runs until a signal, and returns its totals."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from typing import Any

from noria import models
from noria.net.listening import Server, describe
from noria.reactor import Reactor
from noria.servers.config import OnConnection, OnReady, ServeConfig, ServerInfo, Summary

log = logging.getLogger("noria")

OPEN_CHECK_INTERVAL = 0.05  # seconds between two checks for open connections, after SIGTERM


def run_server(config: ServeConfig, ready: OnReady | None) -> Summary:
    """Serve in this process until a signal or `ServerInfo.stop`; return the totals."""
    with Reactor(config.model, interval=config.interval) as reactor:
        server = reactor.listen(
            config.protocol_factory,
            config.host,
            config.port,
            unix=config.unix,
            sock=config.sock,
            backlog=config.backlog,
            reuse_port=config.reuse_port,
        )
        if config.on_connection is not None:
            report_connections(server, config.on_connection)
        if threading.current_thread() is threading.main_thread():
            shutdown = _Shutdown(reactor, server, config.grace)
            reactor.signal(signal.SIGINT, shutdown.at_once)
            reactor.signal(signal.SIGTERM, shutdown.gracefully)
            if sighup_stops_server():
                reactor.signal(signal.SIGHUP, shutdown.gracefully)
        if ready is not None:
            reason = models.choose()[1] if config.model == "auto" else ""
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


def sighup_stops_server() -> bool:
    """Whether SIGHUP has its default action: it is not ignored, as by nohup(1), nor handled."""
    return signal.getsignal(signal.SIGHUP) == signal.SIG_DFL


class _Shutdown:
    """The signal handlers of a server."""

    def __init__(self, reactor: Reactor, server: Server, grace: float):
        self.reactor = reactor
        self.server = server
        self.grace = grace
        self.deadline = 0.0  # 0 until a graceful shutdown has begun

    def at_once(self, number: int) -> None:
        """SIGINT: stop accepting and abort the connections."""
        self.server.abort()
        self.reactor.stop()

    def gracefully(self, number: int) -> None:
        """SIGTERM, SIGHUP: stop accepting and let the connections finish.

        A second SIGTERM acts like SIGINT. A second SIGHUP does not: a worker receives one from the
        terminal and one from its parent.
        """
        if self.deadline:
            if number != signal.SIGHUP:
                self.at_once(number)
            return
        self.deadline = time.monotonic() + self.grace
        self.server.close()
        self._stop_when_idle()

    def _stop_when_idle(self) -> None:
        open_now = len(self.server.streams)
        if not open_now:
            self.reactor.stop()
        elif time.monotonic() >= self.deadline:
            log.warning("%d connections did not finish in %g s: closed", open_now, self.grace)
            self.at_once(0)
        else:
            self.reactor.call_later(OPEN_CHECK_INTERVAL, self._stop_when_idle)


def report_connections(server: Server, on_connection: OnConnection) -> None:
    """Call `on_connection` for each connection, when it opens and when it closes."""
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
