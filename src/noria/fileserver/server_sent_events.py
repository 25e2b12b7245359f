"""Server-sent events (WHATWG HTML, section 9.2) that report changes of a directory."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator

from noria.fileserver.file_store import FileStore
from noria.http.messages import HTTPException, Request, Response

MAX_STREAMS = 1024  # in one process
POLL_INTERVAL = 2.0  # seconds between two checks of a directory, for changes by other processes
KEEPALIVE_INTERVAL = 15.0  # seconds without an event after which a comment is sent


class ChangeEvents:
    """The event streams of clients, by directory.

    `files` reports changes by this process at once, and FileEvents those by other servers. Changes
    by other programs are detected by the directory's modification time.
    """

    def __init__(self, files: FileStore) -> None:
        self._root = files.root
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._streams = 0
        self._closed = False
        files.on_change.append(lambda change: self.notify(*change.directories))

    def notify(self, *paths: str) -> None:
        """Send a message to the clients that follow one of these directories."""
        for path in paths:
            for event in self._waiting.get(path, ()):
                event.set()

    def close(self) -> None:
        """End all streams, because the server stops."""
        self._closed = True
        for events in self._waiting.values():
            for event in events:
                event.set()

    async def respond(self, request: Request) -> Response:
        """Return the stream of /-/events?path=DIRECTORY. Raises HTTPException."""
        path = request.query.get("path", "/")
        if not path.endswith("/"):
            raise HTTPException(400, "The path of a directory must end in '/': /-/events?path=/d/")
        if self._streams >= MAX_STREAMS:
            raise HTTPException(
                503,
                "Too many clients listen for events; try again later.",
                headers=[("Retry-After", "30")],
            )
        modified = await self._modified(path)
        headers = [
            ("Content-Type", "text/event-stream"),
            ("Cache-Control", "no-store"),
            ("X-Accel-Buffering", "no"),
        ]
        return Response(200, headers, self._follow(path, modified))

    async def _modified(self, path: str) -> int:
        status = await asyncio.get_running_loop().run_in_executor(None, self._root.stat, path)
        return status.st_mtime_ns

    async def _follow(self, path: str, modified: int) -> AsyncIterator[bytes]:
        event = asyncio.Event()
        self._waiting.setdefault(path, set()).add(event)
        self._streams += 1
        message = b"event: change\ndata: " + json.dumps({"path": path}).encode() + b"\n\n"
        quiet = time.monotonic()
        try:
            yield b"retry: 2000\n\n"
            while not self._closed:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(event.wait(), POLL_INTERVAL)
                if self._closed:
                    return
                changed = event.is_set()
                event.clear()
                before = modified
                try:
                    modified = await self._modified(path)
                except HTTPException:
                    # The directory was removed; the page finds out when it reloads.
                    yield message
                    return
                now = time.monotonic()
                if changed or modified != before:
                    yield message
                    quiet = now
                elif now - quiet >= KEEPALIVE_INTERVAL:
                    yield b":\n\n"
                    quiet = now
        finally:
            self._streams -= 1
            self._waiting[path].discard(event)
            if not self._waiting[path]:
                del self._waiting[path]
