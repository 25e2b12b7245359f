"""The file server: the service behind its front, on a port, until a signal ends it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from noria import models
from noria.aio.run import new_event_loop
from noria.fileserver.access_log import AccessLog
from noria.fileserver.allowed_hosts import hosts_of
from noria.fileserver.auth import Guard, Hash
from noria.fileserver.cleanup import Upkeep
from noria.fileserver.metrics import Metrics
from noria.fileserver.server_sent_events import Events
from noria.fileserver.service import FileService, refused
from noria.fileserver.tus import Uploads
from noria.fileserver.web.assets import asset
from noria.http.limits import Limits
from noria.http.messages import READING, HTTPException, Request, Response
from noria.http.protocol import Front
from noria.net.listening import describe, tcp_sockets
from noria.servers.serve import ServerInfo, Summary, ends_by_hangup

log = logging.getLogger("noria")

OWN = "/-/"
NOSNIFF = ("X-Content-Type-Options", "nosniff")
THREADS = 32  # that work on the disk: they wait for it, so the number of cores is no measure


@dataclass(frozen=True)
class Options:
    """What `serve_files` is asked for; the names are those of the command's options."""

    directory: str = "."
    host: str = "127.0.0.1"
    port: int = 8000
    sockets: Sequence[socket.socket] = ()  # that listen already, in place of host and port
    model: str = "auto"
    workers: int = 1
    grace: float = 30.0
    tls: ssl.SSLContext | None = None
    upload: bool = False
    overwrite: bool = False
    read_only: bool = False
    users: Mapping[str, Hash] = field(default_factory=dict)
    tokens: Sequence[str] = ()
    max_size: int | None = None
    quota: int | None = None
    metrics: bool = False
    allowed_hosts: Sequence[str] = ()  # as of hosts_of
    sweeping: int = -1  # as of Upkeep
    counting: int = -1  # as of Quota's `shared`
    log: str = "none"
    limits: Limits = field(default_factory=Limits)


class FileServer:
    """Requests on their way to the service, or to what the server has of its own under /-/."""

    def __init__(self, service: FileService, options: Options) -> None:
        self.service = service
        self.events = Events(service)
        self.uploads = Uploads(service, options.max_size) if options.upload else None
        self.guard = (
            Guard(options.users, options.tokens) if options.users or options.tokens else None
        )
        self.metrics = Metrics() if options.metrics else None
        logged = options.log != "none" and sys.stdout is not None  # None: it is closed
        self.access = AccessLog(options.log, sys.stdout) if logged else None
        told = self.answered if self.metrics or self.access else None
        # Who may come in is asked on the long way.
        quick = service.quick if self.guard is None else None
        self.front = Front(self.handle, options.limits, told, quick)

    def answered(
        self, request: Request | None, status: int, sent: int, seconds: float, peer: str
    ) -> None:
        if self.metrics is not None:
            self.metrics.count(request, status, sent, seconds, peer)
        if self.access is not None:
            self.access(request, status, sent, seconds, peer)

    async def handle(self, request: Request) -> Response:
        """The answer; raises HTTPException, but not of what is only asked for: that gets a page."""
        try:
            if self.guard is not None:
                await self.guard.check(request)
            if not request.path.startswith(OWN):
                return await self.service.handle(request)
            response = await self._own(request)
        except HTTPException as error:
            if request.method not in ("GET", "HEAD"):
                raise
            response = refused(request, error)
        if NOSNIFF not in response.headers:
            response.headers.append(NOSNIFF)
        return response

    async def _own(self, request: Request) -> Response:
        name, _, rest = request.path.removeprefix(OWN).partition("/")
        if request.method == "OPTIONS" and name != "uploads":
            return Response(204, [("Allow", READING)])
        if name == "assets":
            return asset(request, rest)
        if name == "uploads":
            if self.uploads is None:
                raise HTTPException(
                    403, "Uploads are off: the server's option --upload allows them."
                )
            return await self.uploads.handle(request, rest)
        if request.method not in ("GET", "HEAD"):
            raise HTTPException(405, "This can only be read.", headers=[("Allow", READING)])
        if name == "events" and not rest:
            return await self.events.answer(request)
        if name == "metrics" and not rest:
            if self.metrics is None:
                raise HTTPException(
                    404, "There are no metrics without the server's option --metrics."
                )
            return self.metrics.page(self.front)
        raise HTTPException(404, "There is nothing of that name.")


def serve_files(options: Options, ready: Callable[[ServerInfo], object] | None = None) -> Summary:
    """Serves a directory until SIGINT, SIGTERM or SIGHUP, in one process or several.

    Raises OSError that names the address or the directory, and what a model is refused by. SIGTERM
    lets requests finish, `grace` seconds at most; SIGINT, or a second SIGTERM, ends them at once.
    SIGHUP is as for noria.serve.
    """
    if options.workers > 1:
        from noria.fileserver.workers import supervise

        return supervise(options, ready)
    return serve_here(options, ready)


def service_of(options: Options) -> FileService:
    """The service that these options make. Raises OSError."""
    return FileService(
        options.directory,
        uploads=options.upload,
        overwrite=options.overwrite,
        read_only=options.read_only,
        max_size=options.max_size,
        quota=options.quota,
        shared=options.counting,
    )


def serve_here(options: Options, ready: Callable[[ServerInfo], object] | None) -> Summary:
    """One process."""
    sockets = list(options.sockets) or tcp_sockets(options.host, options.port, reuse_port=False)
    with contextlib.ExitStack() as stack:
        for sock in sockets:
            stack.callback(sock.close)
        service = service_of(options)
        stack.callback(service.close)  # after the runner, which waits for the threads
        with asyncio.Runner(loop_factory=lambda: new_event_loop(options.model)) as runner:
            return runner.run(_serve(service, options, sockets, ready))


async def _serve(
    service: FileService,
    options: Options,
    sockets: list[socket.socket],
    ready: Callable[[ServerInfo], object] | None,
) -> Summary:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(THREADS, "noria-disk"))  # the runner ends it
    server = FileServer(service, options)
    front = server.front
    hosts = hosts_of(options.allowed_hosts, sockets)
    front.admitted = None if hosts is None else hosts.admits
    upkeep = Upkeep(service, options.sweeping)
    ending = _Ending()
    signals = [signal.SIGINT, signal.SIGTERM]
    if ends_by_hangup():
        signals.append(signal.SIGHUP)
    for number in signals:
        loop.add_signal_handler(number, ending.signalled, number)
    protocols: Callable[[], asyncio.Protocol] = front
    if options.tls is not None:
        from noria.http.tls import Secured  # which nothing else needs

        protocols = Secured(front, options.tls)
    servers = [await loop.create_server(protocols, sock=sock, backlog=1024) for sock in sockets]
    front.start()
    if server.uploads is not None:
        server.uploads.start()
    upkeep.start()
    try:
        if ready is not None:
            reason = models.choose()[1] if options.model == "auto" else ""
            addresses = [describe(sock.family, sock.getsockname()) for sock in sockets]
            name = getattr(loop, "model_name", options.model)
            ready(ServerInfo(addresses, name, reason, os.getpid(), ending.at_once))
        await ending.begun.wait()
    finally:
        for one in servers:
            one.close()
        server.events.close()
        draining = asyncio.create_task(front.drain(options.grace))
        at_once = asyncio.create_task(ending.now.wait())
        await asyncio.wait((draining, at_once), return_when=asyncio.FIRST_COMPLETED)
        if not draining.done():
            draining.cancel()
            await front.drain(0)
        elif left := draining.result():
            log.warning("%d connections did not finish in %g s: ended", left, options.grace)
        at_once.cancel()
        await upkeep.stop()
        if server.uploads is not None:
            server.uploads.stop()
        front.stop()
    return Summary(connections=front.accepted, bytes_in=front.received, bytes_out=front.sent)


class _Ending:
    """What the signals ask for."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.now = asyncio.Event()

    def signalled(self, number: int) -> None:
        # A worker gets SIGHUP twice: from the terminal and from its parent.
        if number == signal.SIGINT or (self.begun.is_set() and number != signal.SIGHUP):
            self.now.set()
        self.begun.set()

    def at_once(self) -> None:
        self.signalled(signal.SIGINT)
