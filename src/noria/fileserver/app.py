"""The file server's application: it routes requests to the file service or to /-/."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from noria.fileserver.access_log import AccessLog
from noria.fileserver.auth import Authenticator
from noria.fileserver.error_pages import error_response
from noria.fileserver.metrics import Metrics
from noria.fileserver.options import ServerOptions
from noria.fileserver.server_sent_events import ChangeEvents
from noria.fileserver.service import FileService
from noria.fileserver.tus.handler import TusHandler
from noria.fileserver.web.assets import asset
from noria.http.messages import READ_METHODS, HTTPException, Request, Response
from noria.http.protocol import HTTPProtocol
from noria.http.server_state import ServerState

if TYPE_CHECKING:
    from noria.fileserver.file_events import FileEvents

RESERVED_PREFIX = "/-/"  # paths of the server itself
NOSNIFF = ("X-Content-Type-Options", "nosniff")


def make_service(options: ServerOptions) -> FileService:
    """The file service that these options describe. Raises OSError."""
    return FileService(
        options.directory,
        uploads=options.upload,
        overwrite=options.overwrite,
        read_only=options.read_only,
        max_size=options.max_size,
        quota=options.quota,
        quota_fd=options.quota_fd,
    )


class FileServerApp:
    """Requests for files go to `service`, requests below /-/ to the server's own resources.

    `protocol_factory` makes the HTTP protocols that call this application; they share `state`.
    """

    def __init__(self, service: FileService, options: ServerOptions) -> None:
        self.service = service
        self.events = ChangeEvents(service.files)
        self.file_events = self._make_file_events(options) if options.events else None
        self.tus = TusHandler(service.files) if options.upload else None
        self.authenticator = (
            Authenticator(options.users, options.tokens)
            if options.users or options.tokens
            else None
        )
        self.metrics = Metrics() if options.metrics else None
        logged = options.log != "none" and sys.stdout is not None  # None: it is closed
        self.access_log = AccessLog(options.log, sys.stdout) if logged else None
        on_response = self._on_response if self.metrics or self.access_log else None
        # The fast path does not check credentials.
        fast_path = service.fast_path if self.authenticator is None else None
        self.state = ServerState(self.handle, options.limits, on_response, fast_path)
        self.protocol_factory: Callable[[], asyncio.Protocol] = partial(HTTPProtocol, self.state)

    def _make_file_events(self, options: ServerOptions) -> FileEvents:
        from noria.fileserver.file_events import FileEvents, default_source  # needs noria.bus

        source = options.events_source or default_source(options.directory)
        return FileEvents(options.events, source, self.service.files, self.events)

    def _on_response(
        self, request: Request | None, status: int, sent: int, seconds: float, peer: str
    ) -> None:
        if self.metrics is not None:
            self.metrics.count(request, status, sent, seconds, peer)
        if self.access_log is not None:
            self.access_log(request, status, sent, seconds, peer)

    async def handle(self, request: Request) -> Response:
        """Return the response.

        Errors of GET and HEAD are returned as a response, which may be a page; other methods raise
        HTTPException.
        """
        try:
            if self.authenticator is not None:
                await self.authenticator.check(request)
            if not request.path.startswith(RESERVED_PREFIX):
                return await self.service.handle(request)
            response = await self._handle_reserved(request)
        except HTTPException as error:
            if request.method not in ("GET", "HEAD"):
                raise
            response = error_response(request, error)
        if NOSNIFF not in response.headers:
            response.headers.append(NOSNIFF)
        return response

    async def _handle_reserved(self, request: Request) -> Response:
        name, _, rest = request.path.removeprefix(RESERVED_PREFIX).partition("/")
        if request.method == "OPTIONS" and name != "uploads":
            return Response(204, [("Allow", READ_METHODS)])
        if name == "assets":
            return asset(request, rest)
        if name == "uploads":
            if self.tus is None:
                raise HTTPException(403, "Uploads are disabled: start the server with --upload.")
            return await self.tus.handle(request, rest)
        if request.method not in ("GET", "HEAD"):
            raise HTTPException(
                405, "This resource is read-only.", headers=[("Allow", READ_METHODS)]
            )
        if name == "events" and not rest:
            return await self.events.respond(request)
        if name == "metrics" and not rest:
            if self.metrics is None:
                raise HTTPException(404, "Metrics are disabled: start the server with --metrics.")
            return self.metrics.respond(self.state, self.file_events)
        raise HTTPException(404, "There is no such resource.")
