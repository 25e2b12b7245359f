"""A file server in this process: it listens, runs until a signal, and returns its totals."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor

from noria import models
from noria.aio.run import new_event_loop
from noria.fileserver.allowed_hosts import allowed_hosts_for
from noria.fileserver.app import FileServerApp, make_service
from noria.fileserver.cleanup import Cleanup
from noria.fileserver.options import ServerOptions
from noria.fileserver.service import FileService
from noria.net.listening import describe, tcp_sockets
from noria.servers.config import OnReady, ServerInfo, Summary
from noria.servers.server import sighup_stops_server

log = logging.getLogger("noria")

# Threads of the loop's default executor. They wait for the disk, so their number does not depend
# on the number of cores.
DISK_THREADS = 32
# Seconds that a server which stops waits for the broker, if it has events left: after SIGTERM, and
# after Ctrl-C.
EVENTS_GRACE = 5.0
EVENTS_GRACE_AT_ONCE = 0.5


def run_server(options: ServerOptions, ready: OnReady | None) -> Summary:
    """Serve in this process until a signal or `ServerInfo.stop`; return the totals."""
    sockets = list(options.sockets) or tcp_sockets(options.host, options.port, reuse_port=False)
    with contextlib.ExitStack() as stack:
        for sock in sockets:
            stack.callback(sock.close)
        service = make_service(options)
        stack.callback(service.close)  # after the runner, which waits for the threads
        with asyncio.Runner(loop_factory=lambda: new_event_loop(options.model)) as runner:
            return runner.run(_serve(service, options, sockets, ready))


async def _serve(
    service: FileService,
    options: ServerOptions,
    sockets: list[socket.socket],
    ready: OnReady | None,
) -> Summary:
    loop = asyncio.get_running_loop()
    # The runner shuts the executor down.
    loop.set_default_executor(ThreadPoolExecutor(DISK_THREADS, "noria-disk"))
    app = FileServerApp(service, options)
    state = app.state
    hosts = allowed_hosts_for(options.allowed_hosts, sockets)
    state.check_host = None if hosts is None else hosts.check
    cleanup = Cleanup(service.files, options.cleanup_fd)
    shutdown = _Shutdown()
    signals = [signal.SIGINT, signal.SIGTERM]
    if sighup_stops_server():
        signals.append(signal.SIGHUP)
    for number in signals:
        loop.add_signal_handler(number, shutdown.on_signal, number)
    protocol_factory = app.protocol_factory
    if options.tls is not None:
        from noria.http.tls import TLSProtocolFactory  # only TLS needs it

        protocol_factory = TLSProtocolFactory(state, options.tls)
    servers = [
        await loop.create_server(protocol_factory, sock=sock, backlog=1024) for sock in sockets
    ]
    state.start()
    if app.tus is not None:
        app.tus.start()
    cleanup.start()
    try:
        if app.file_events is not None:
            await app.file_events.start()
        if ready is not None:
            reason = models.choose()[1] if options.model == "auto" else ""
            addresses = [describe(sock.family, sock.getsockname()) for sock in sockets]
            name = getattr(loop, "model_name", options.model)
            ready(ServerInfo(addresses, name, reason, os.getpid(), shutdown.at_once))
        await shutdown.requested.wait()
    finally:
        for server in servers:
            server.close()
        app.events.close()
        draining = asyncio.create_task(state.drain(options.grace))
        immediate = asyncio.create_task(shutdown.immediate.wait())
        await asyncio.wait((draining, immediate), return_when=asyncio.FIRST_COMPLETED)
        if not draining.done():
            draining.cancel()
            await state.drain(0)
        elif count := draining.result():
            log.warning("%d connections did not finish in %g s: closed", count, options.grace)
        immediate.cancel()
        await cleanup.stop()
        await service.files.wait_for_changes()
        if app.file_events is not None:
            at_once = shutdown.immediate.is_set()
            await app.file_events.stop(EVENTS_GRACE_AT_ONCE if at_once else EVENTS_GRACE)
        if app.tus is not None:
            app.tus.stop()
        state.stop()
    return Summary(
        connections=state.connections_accepted,
        bytes_in=state.bytes_received,
        bytes_out=state.bytes_sent,
    )


class _Shutdown:
    """The signal handlers of a file server, and the events they set."""

    def __init__(self) -> None:
        self.requested = asyncio.Event()
        self.immediate = asyncio.Event()

    def on_signal(self, number: int) -> None:
        # A worker receives SIGHUP twice: from the terminal and from its parent.
        if number == signal.SIGINT or (self.requested.is_set() and number != signal.SIGHUP):
            self.immediate.set()
        self.requested.set()

    def at_once(self) -> None:
        self.on_signal(signal.SIGINT)
