"""A file server of several processes that share one port."""

from __future__ import annotations

import os
import socket
from dataclasses import replace

from noria import models
from noria.fileserver.options import ServerOptions
from noria.fileserver.server import run_server
from noria.net.listening import tcp_sockets
from noria.servers.config import OnReady, Summary
from noria.servers.supervisor import supervise


def run_workers(options: ServerOptions, ready: OnReady | None) -> Summary:
    """Serve with several processes until a signal; return the sum of their totals."""
    chosen, reason = models.choose() if options.model == "auto" else (options.model, "")
    models.make(chosen).close()  # raises here, not once in each worker
    sockets = list(options.sockets) or tcp_sockets(options.host, options.port, reuse_port=True)
    # The workers share these: the lock of the one that cleans up, and the quota's numbers.
    cleanup_fd, quota_fd = os.memfd_create("noria-cleanup"), os.memfd_create("noria-quota")
    options = replace(options, model=chosen, cleanup_fd=cleanup_fd, quota_fd=quota_fd)

    def serve(on_ready: OnReady) -> Summary:
        own_sockets = _sockets_of_worker(options, sockets)
        return run_server(replace(options, sockets=own_sockets), on_ready)

    try:
        return supervise(serve, options.workers, sockets, chosen, reason, ready)
    finally:
        os.close(cleanup_fd)
        os.close(quota_fd)


def _sockets_of_worker(options: ServerOptions, sockets: list[socket.socket]) -> list[socket.socket]:
    """Sockets for this worker: duplicates of those given, or new ones on the parent's ports."""
    if options.sockets:
        return [sock.dup() for sock in sockets]
    new: list[socket.socket] = []
    for sock in sockets:
        host, port = sock.getsockname()[:2]
        new += tcp_sockets(host, port, reuse_port=True)
    return new
