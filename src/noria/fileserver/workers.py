"""Several processes that serve one directory on one port."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from noria import models
from noria.fileserver import server as _server
from noria.net.listening import describe, tcp_sockets
from noria.servers.serve import ServerInfo, Summary
from noria.servers.supervisor import Supervisor


class _Workers(Supervisor):
    def __init__(self, options: _server.Options, sockets: list[socket.socket]) -> None:
        super().__init__(cast("Any", options), sockets)
        self.options = options

    def serve(self, ready: Callable[[ServerInfo], object]) -> Summary:
        """In the child: a socket of its own on the port, or a share in those that were given."""
        if self.options.sockets:
            return _server.serve_here(
                replace(self.options, sockets=[sock.dup() for sock in self.sockets]), ready
            )
        own: list[socket.socket] = []
        for sock in self.sockets:
            host, port = sock.getsockname()[:2]
            own += tcp_sockets(host, port, reuse_port=True)
        return _server.serve_here(replace(self.options, sockets=own), ready)


def supervise(options: _server.Options, ready: Callable[[ServerInfo], object] | None) -> Summary:
    """Runs the workers until a signal; the sum of what they did."""
    chosen, reason = models.choose() if options.model == "auto" else (options.model, "")
    models.make(chosen).close()  # says here what every worker would say
    sockets = list(options.sockets) or tcp_sockets(options.host, options.port, reuse_port=True)
    addresses = [describe(sock.family, sock.getsockname()) for sock in sockets]
    # What the workers have in common.
    turn, numbers = os.memfd_create("noria-sweeping"), os.memfd_create("noria-quota")
    options = replace(options, model=chosen, sweeping=turn, counting=numbers)
    workers = _Workers(options, sockets)
    try:
        for _ in range(options.workers):
            workers.start()
        workers.await_listening()
        if ready is not None:
            ready(ServerInfo(addresses, chosen, reason, os.getpid(), workers.stop))
        summary = workers.run()
    finally:
        workers.close()
        os.close(turn)
        os.close(numbers)
        for sock in sockets:
            sock.close()
    summary.workers = options.workers
    return summary
