"""The file server on a bus: it publishes its changes, and receives those of other processes.

Events are published after the change is on the disk, in the background: no request waits for the
broker, and none fails because of it. docs/fileserver.md describes the events.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from typing import Any
from urllib.parse import quote

from noria.bus import backoff
from noria.bus.bus import Bus
from noria.bus.event import Event
from noria.errors import BusClosed, BusError, EmitTimeout, InvalidEvent
from noria.fileserver.changes import Change, changed_directories
from noria.fileserver.file_store import FileStore
from noria.fileserver.server_sent_events import ChangeEvents

log = logging.getLogger("noria")

TYPES = (
    "file.created",
    "file.replaced",
    "file.moved",
    "file.deleted",
    "directory.created",
    "directory.moved",
    "directory.deleted",
)
MAX_WAITING = 10_000  # events of one process that wait for the broker
MAX_WAIT = 3600.0  # seconds that an event waits for the broker
MAX_REFUSALS = 6  # attempts for an event that the broker refuses
# The extension attribute with the name of the process that published the event.
PROCESS = "noriaworker"


def default_source(directory: str) -> str:
    """The source of a directory's events: file://HOST/DIRECTORY/, RFC 8089."""
    path = os.path.realpath(directory).rstrip("/") + "/"
    return f"file://{quote(socket.gethostname() or 'localhost')}{quote(os.fsencode(path))}"


async def check_broker(url: str) -> None:
    """Connect once. Raises BrokerUnavailable, InvalidBrokerURL and ImportError."""
    bus = Bus(url)
    try:
        await bus.connect()
    finally:
        await bus.close()


def event_of(change: Change, source: str, process: str) -> Event:
    """The event for a change."""
    kind = "directory" if change.is_directory else "file"
    data: dict[str, Any] = {"path": change.path}
    if change.action == "moved":
        data["old_path"] = change.old_path
    if not change.is_directory:
        data["size"] = change.size
        if change.action in ("created", "replaced"):
            data["etag"] = change.etag
            data["sha256"] = None if change.sha256 is None else change.sha256.hex()
        elif change.action == "moved":
            data["overwritten"] = change.overwritten
    data["user"] = change.user or None
    return Event(
        f"{kind}.{change.action}",
        data,
        source=source,
        subject=change.path,
        key=change.path,
        **{PROCESS: process},
    )


class FileEvents:
    """Publishes the changes of `files`, and reports those of other processes to `pages`.

    `source` names the served files: processes with the same source report to each other's pages.
    Create it on the loop that uses it. Raises InvalidBrokerURL and ImportError.
    """

    def __init__(self, url: str, source: str, files: FileStore, pages: ChangeEvents) -> None:
        self.bus = Bus(url, source=source)
        self.source = source
        self.published = 0
        # Events given up: too many waited, the broker refused them, or the server stopped.
        self.lost = 0
        # Changes by other processes.
        self.received = 0
        self._pages = pages
        self._publishing: set[asyncio.Task[None]] = set()
        self._connecting: asyncio.Task[None] | None = None
        self._losing = False
        for type in TYPES:
            self.bus.on(type, self._receive)
        files.on_change.append(self.publish)

    @property
    def waiting(self) -> int:
        """Events that the broker has not confirmed yet."""
        return len(self._publishing)

    # Connecting.

    async def start(self) -> None:
        """Connect and subscribe. If that fails, a task retries, and the server continues."""
        try:
            await self.bus.start()
        except BusError as error:
            log.warning("%s; the file server tries again in the background", error)
            self._connecting = asyncio.create_task(self._connect())

    async def _connect(self) -> None:
        failures = 0
        while True:
            failures += 1
            await asyncio.sleep(backoff.reconnect_delay(failures))
            try:
                await self.bus.start()
            except BusError as error:
                log.debug("%s", error)
                continue
            log.warning("the broker at %s is there now", self.bus.url.shown)
            return

    async def stop(self, seconds: float) -> None:
        """Give the broker `seconds` for the events that wait, then disconnect."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        if self._publishing:
            await asyncio.wait(self._publishing, timeout=seconds)
        count = len(self._publishing)
        for task in self._publishing:
            task.cancel()
        if count:
            await asyncio.wait(self._publishing)
            self.lost += count
            log.error("the server stops; events that were not published: %d", count)
        self.bus.emit_timeout = seconds
        closing = asyncio.create_task(self.bus.close())
        await asyncio.wait([closing], timeout=seconds)
        if not closing.done():  # the broker does not answer; nothing is left to lose
            closing.cancel()
            await asyncio.wait([closing], timeout=seconds)
        if closing.done() and not closing.cancelled() and (error := closing.exception()):
            log.warning("disconnecting from %s failed: %s", self.bus.url.shown, error)

    # Publishing.

    def publish(self, change: Change) -> None:
        """Publish a durable change, in the background."""
        if len(self._publishing) >= MAX_WAITING:
            self._lose(f"{MAX_WAITING} events wait for the broker")
            return
        event = event_of(change, self.source, self.bus.worker)
        task = asyncio.get_running_loop().create_task(self._publish(event))
        self._publishing.add(task)
        task.add_done_callback(self._publishing.discard)

    async def _publish(self, event: Event) -> None:
        """Publish an event: the bus retries while the broker is away, this while it refuses."""
        refusals = 0
        while True:
            try:
                await self.bus.publish(event, timeout=MAX_WAIT)
            except (InvalidEvent, EmitTimeout, BusClosed) as error:
                self._lose(error)
                return
            except BusError as error:
                refusals += 1
                if refusals >= MAX_REFUSALS:
                    self._lose(error)
                    return
                await asyncio.sleep(backoff.delay(refusals))
            else:
                break
        self.published += 1
        if self._losing:
            self._losing = False
            log.warning("events are published again; %d were lost so far", self.lost)

    def _lose(self, reason: object) -> None:
        """Count an event that is given up; log the first of several."""
        self.lost += 1
        if not self._losing:
            self._losing = True
            log.error("an event of a file is lost, and others may be: %s", reason)

    # Receiving.

    async def _receive(self, event: Event) -> None:
        if event.source != self.source or event.attributes.get(PROCESS) == self.bus.worker:
            return
        data = event.data if isinstance(event.data, dict) else {}
        path, old_path = data.get("path"), data.get("old_path", "")
        # Other programs may publish events of these types, too.
        if isinstance(path, str) and isinstance(old_path, str):
            self.received += 1
            self._pages.notify(*changed_directories(path, old_path))
