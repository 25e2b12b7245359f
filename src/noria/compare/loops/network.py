"""Rows with a server: messages a second under a load, and memory of idle connections."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from noria.compare.loops.process import Peer, peer, sample_of
from noria.compare.loops.row import Place, Sample, Start, Subject, Unavailable

ACCEPT_SECONDS = 10.0
SETTLE_SECONDS = 0.03
MAX_SETTLE_SECONDS = 2.0


class Server:
    """A server of peers.server on one loop, and the connections that the load holds to it."""

    def __init__(self, loop: str, process: Peer, place: Place) -> None:
        if place.clients is None:
            raise Unavailable("the place of the measurement has no load")
        # Its name in the load: a loop may have two processes.
        self.name = f"{loop} {process.pid}"
        self.process = process
        self.place = place
        self.clients = place.clients
        self.port = 0

    def start(self) -> None:
        """Wait until the server listens; let it see a few connections end."""
        self.port = int(self.process.receive()["port"])
        if not self.place.fresh:
            self.clients.request("end_connections", port=self.port)

    def open(self, kind: str, **options: int) -> None:
        """Open the load's connections, and warm the server up."""
        self.clients.request(
            "open", name=self.name, kind=kind, port=self.port, pid=self.process.pid, **options
        )
        self.run(self.place.warmup, cpu_time=False)

    def run(self, seconds: float, cpu_time: bool) -> Sample:
        """Measure once."""
        return sample_of(
            self.clients.request(
                "run",
                seconds + self.place.warmup,
                name=self.name,
                warmup=self.place.warmup,
                seconds=seconds,
                cpu_time=cpu_time,
            )
        )

    def close(self) -> None:
        """Close the load's connections."""
        # A load that did not reply has been ended, and its connections with it.
        if self.clients.pids:
            with contextlib.suppress(Unavailable):
                self.clients.request("close", name=self.name)


@contextlib.contextmanager
def _serving(loop: str, kind: str, place: Place) -> Iterator[Server]:
    with peer("server", place, loop, kind) as process:
        server = Server(loop, process, place)
        try:
            yield server
        finally:
            server.close()


def load(server_kind: str, load_kind: str, *, cpu_time: bool = False, **options: int) -> Start:
    """Return the start of a row: messages a second of a server of peers.server.

    With `cpu_time`, for each second of the server's CPU time, as for a load that is a limit.
    `options` are those of the load: connections, size.
    """

    @contextlib.contextmanager
    def start(loop: str, place: Place) -> Iterator[Subject]:
        with _serving(loop, server_kind, place) as server:

            def prepare() -> None:
                server.start()
                server.open(load_kind, **options)

            yield Subject(lambda: server.run(place.seconds, cpu_time), server.process.pid, prepare)

    return start


def idle_memory(first: int, more: int) -> Start:
    """Return the start of a row: resident bytes of an idle connection.

    `first` connections fill the memory that a process has free from its start; then each
    measurement opens `more`, and divides what the process has grown by.
    """

    @contextlib.contextmanager
    def start(loop: str, place: Place) -> Iterator[Subject]:
        with _serving(loop, "protocol", place) as server:
            yield Subject(
                lambda: Sample(_growth(server, more) / more),
                server.process.pid,
                lambda: _fill(server, first),
            )

    return start


def _fill(server: Server, count: int) -> None:
    server.start()
    # Load the code and tables that a server needs once.
    server.open("echo", connections=10, size=1024)
    _growth(server, count)


def _growth(server: Server, count: int) -> int:
    """Open connections; return the bytes by which the server has grown when it has accepted all."""
    before = resident(server.process.pid)
    reply = server.clients.request(
        "open_idle", ACCEPT_SECONDS, name=server.name, port=server.port, count=count
    )
    latest = time.monotonic() + ACCEPT_SECONDS
    while waiting_to_be_accepted(server.port):
        if time.monotonic() > latest:
            raise Unavailable("it stopped accepting connections")
        time.sleep(0.005)
    after = settled(server.process.pid)
    if reply["ended"]:
        raise Unavailable(f"it closed {reply['ended']:,} of {reply['idle']:,} connections")
    return after - before


def resident(pid: int) -> int:
    """Return the private resident bytes of a process (Private_* in smaps_rollup, proc(5))."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError as error:
        raise Unavailable(f"its memory cannot be read: {error}") from None
    return 1024 * sum(
        int(line.split()[1])
        for line in text.splitlines()
        if line.startswith(("Private_Clean:", "Private_Dirty:"))
    )


def settled(pid: int, pause: float = SETTLE_SECONDS, at_most: float = MAX_SETTLE_SECONDS) -> int:
    """Return the resident bytes once they do not change for `pause` seconds."""
    latest = time.monotonic() + at_most
    before, now = -1, resident(pid)
    while now != before and time.monotonic() < latest:
        time.sleep(pause)
        before, now = now, resident(pid)
    return now


def waiting_to_be_accepted(port: int) -> int:
    """Return the number of connections in the accept queue of the listener on 127.0.0.1."""
    listener = f"0100007F:{port:04X}"
    with open("/proc/net/tcp") as lines:
        next(lines)
        for line in lines:
            words = line.split()
            if words[3] != "0A":  # TCP_LISTEN: these lines come first, before thousands of others
                break
            if words[1] == listener:
                return int(words[4].partition(":")[2], 16)
    raise Unavailable("it no longer listens")
