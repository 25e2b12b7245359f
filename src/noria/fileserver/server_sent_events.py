"""Server-sent events (WHATWG HTML, section 9.2): a directory's listing has changed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from noria.http.messages import HTTPException, Request, Response

if TYPE_CHECKING:
    from noria.fileserver.service import FileService

STREAMS = 1024  # at once, in one process
LOOK = 2.0  # seconds between two looks at a directory, for changes that others make
BEAT = 15.0  # seconds of silence after which a comment shows whether the client is still there


class Events:
    """Who waits for changes of which directory.

    What this process changes is told at once by the service; what other workers and programs
    change is seen by the directory's time of modification.
    """

    def __init__(self, service: FileService) -> None:
        self._service = service
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._streams = 0
        self._closed = False
        service.on_change.append(self.changed)

    def changed(self, path: str) -> None:
        for event in self._waiting.get(path, ()):
            event.set()

    def close(self) -> None:
        """Ends all streams: the server is about to."""
        self._closed = True
        for events in self._waiting.values():
            for event in events:
                event.set()

    async def answer(self, request: Request) -> Response:
        path = request.query.get("path", "/")
        if not path.endswith("/"):
            raise HTTPException(400, "The path of a directory ends in '/': /-/events?path=/d/")
        if self._streams >= STREAMS:
            raise HTTPException(503, "Too many follow events.", headers=[("Retry-After", "30")])
        modified = await self._modified(path)
        headers = [
            ("Content-Type", "text/event-stream"),
            ("Cache-Control", "no-store"),
            ("X-Accel-Buffering", "no"),
        ]
        return Response(200, headers, self._follow(path, modified))

    async def _modified(self, path: str) -> int:
        status = await asyncio.get_running_loop().run_in_executor(
            None, self._service.root.stat, path
        )
        return status.st_mtime_ns

    async def _follow(self, path: str, modified: int) -> AsyncIterator[bytes]:
        event = asyncio.Event()
        self._waiting.setdefault(path, set()).add(event)
        self._streams += 1
        told = b"event: change\ndata: " + json.dumps({"path": path}).encode() + b"\n\n"
        quiet = time.monotonic()
        try:
            yield b"retry: 2000\n\n"
            while not self._closed:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(event.wait(), LOOK)
                if self._closed:
                    return
                changed = event.is_set()
                event.clear()
                before = modified
                try:
                    modified = await self._modified(path)
                except HTTPException:  # the directory is gone: the page finds out by asking for it
                    yield told
                    return
                now = time.monotonic()
                if changed or modified != before:
                    yield told
                    quiet = now
                elif now - quiet >= BEAT:
                    yield b":\n\n"
                    quiet = now
        finally:
            self._streams -= 1
            self._waiting[path].discard(event)
            if not self._waiting[path]:
                del self._waiting[path]
