"""Flight recordings of a process that does not answer, or that crashes.

A memfd, "noria-names", has the beginning of a recording: the process, its loops and all names so
far. Together with the rings, "noria-recorder", it is a recording. Another process of the user finds
both in /proc/PID/fd; the handler of a crash writes them into a file.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import Any, Protocol

from noria._core.recorder import signals
from noria._core.recorder.reader import RingReader
from noria.errors import NoriaError
from noria.sight import recording
from noria.sight.ring_records import RECORD_SIZE, new_records
from noria.sight.watched_loop import WatchedLoop

NAMES = "noria-names"
RINGS = "noria-recorder"
REFRESH_SECONDS = 0.02
REFRESH_SHARE = 0.01


class Watching(Protocol):
    """The agent, as far as a FlightRecorder needs it."""

    started: int
    loops: list[WatchedLoop]

    def hello(self) -> dict[str, Any]: ...
    def names(self, loop: int, after: int = 0) -> list[Any]: ...
    def ring(self, loop: int) -> int: ...


class FlightRecorder:
    """Keeps the beginning of a recording up to date, in a memfd and for the handler of a crash.

    The agent's thread and those of the loops call it.
    """

    def __init__(self, agent: Watching) -> None:
        self.agent = agent
        self.fd = os.memfd_create(NAMES, os.MFD_CLOEXEC)
        self.crash = False
        self._known: list[tuple[int, int]] = []  # (loop id, number of its names)
        self._lock = threading.RLock()
        self._created = time.monotonic()
        self._spent = 0.0  # seconds in refreshes

    def write_on_crash(self, path: str) -> None:
        """Have fatal signals write the recording to a file. Raises ValueError."""
        signals.install_crash_dump(path)
        self.crash = True
        self.refresh()

    def tick(self) -> None:
        """Refresh the recording if there are other loops or new names.

        A program that starts many loops a second is not slowed down: all refreshes together take
        at most REFRESH_SECONDS and REFRESH_SHARE of the time.
        """
        with self._lock:
            limit = REFRESH_SECONDS + REFRESH_SHARE * (time.monotonic() - self._created)
            if self._spent <= limit and self._is_outdated():
                self.refresh()

    def _is_outdated(self) -> bool:
        loops = [each for each in self.agent.loops if not each.released]
        return [each.id for each in loops] != [loop for loop, _ in self._known] or any(
            watched.recorder.names_after(count)
            for watched, (_, count) in zip(loops, self._known, strict=True)
        )

    def refresh(self) -> None:
        """Write the beginning of the recording again."""
        with self._lock:
            if self.fd >= 0:
                began = time.thread_time()
                self._refresh()
                self._spent += time.thread_time() - began

    def _refresh(self) -> None:
        hello = self.agent.hello()
        process = {key: hello[key] for key in hello if key != "loops"}
        fresh = os.memfd_create(NAMES, os.MFD_CLOEXEC)
        try:
            recording.write_magic(fresh)
            recording.write_json(fresh, "process", {**process, "started": self.agent.started})
            known = []
            for loop in hello["loops"]:
                number = loop["id"]
                recording.write_json(fresh, "loop", loop, number)
                try:
                    names = self.agent.names(number)
                except ValueError:
                    continue  # released meanwhile
                recording.write_json(fresh, "names", {"loop": number, "names": names}, number)
                known.append((number, len(names)))
            self._known = known
            # Atomic: a reader sees the former recording or this one.
            os.dup2(fresh, self.fd, inheritable=False)
        finally:
            os.close(fresh)
        if self.crash:
            self._set_crash_data()

    def _set_crash_data(self) -> None:
        size = os.fstat(self.fd).st_size
        rings = []
        for number, _ in self._known:
            with contextlib.suppress(ValueError, OSError):  # released meanwhile
                rings.append((number, self.agent.ring(number)))
        signals.set_crash_data(os.pread(self.fd, size, 0), rings)

    def close(self) -> None:
        """Free the memory, and leave crashes to the former handlers."""
        with self._lock:
            self._close()

    def abandon(self) -> None:
        """Close the copy in the child of a fork: a thread of the parent may have had the lock."""
        self._close()

    def _close(self) -> None:
        if self.crash:
            self.crash = False
            signals.remove_crash_dump()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def not_watched(pid: int) -> str:
    """Return the message for a process that has no agent."""
    return f"process {pid} is not watched: start it with 'noria run', or call noria.watch() in it"


def dump_process(pid: int, path: str | os.PathLike[str]) -> int:
    """Write the flight recording of a process that need not answer; return the number of records.

    Raises NoriaError if the process is not watched, OSError without the permission to look into it
    and for the file.
    """
    names, rings = _memories(pid)
    if not rings:
        raise NoriaError(not_watched(pid))
    by_base: dict[int, int] = {}  # ticks_base of a loop's ring -> loop id
    fd = recording.create_file(path)
    try:
        if names:
            recording.write_all(fd, [names])
            by_base = _loops_of(pid, names)
        else:
            recording.write_magic(fd)
            recording.write_json(fd, "process", {"pid": pid})
        records = 0
        for ring in rings:
            with contextlib.closing(ring):
                records += _write_ring(fd, ring, by_base)
        return records
    finally:
        os.close(fd)


def _write_ring(fd: int, ring: RingReader, by_base: dict[int, int]) -> int:
    header: dict[str, Any] = ring.header()
    loop = by_base.get(header["ticks_base"])
    if loop is None:  # a loop that began after the names were written
        loop = max(by_base.values(), default=-1) + 1
        by_base[header["ticks_base"]] = loop
        recording.write_json(fd, "loop", {"id": loop, "header": header}, loop)
    records = 0
    for part in new_records(ring):
        recording.write_records(fd, loop, part)
        records += len(part) // RECORD_SIZE
    return records


def _memories(pid: int) -> tuple[bytes, list[RingReader]]:
    """Return the content of "noria-names", and a reader of each ring of a process."""
    names = b""
    rings: dict[int, RingReader] = {}
    for entry in os.listdir(f"/proc/{pid}/fd"):
        link = f"/proc/{pid}/fd/{entry}"
        with contextlib.suppress(FileNotFoundError, NoriaError):
            target = os.readlink(link)
            if not target.startswith(("/memfd:" + NAMES, "/memfd:" + RINGS)):
                continue
            fd = os.open(link, os.O_RDONLY | os.O_CLOEXEC)
            try:
                found = os.fstat(fd)
                if target.startswith("/memfd:" + NAMES):
                    content = os.pread(fd, found.st_size, 0)
                    names = content or names
                elif found.st_ino not in rings:
                    rings[found.st_ino] = RingReader(fd)
            finally:
                os.close(fd)
    return names, list(rings.values())


def _loops_of(pid: int, names: bytes) -> dict[int, int]:
    """Return the loop ids in the beginning of a recording, by the ticks_base of their rings."""
    with recording.Recording(f"{NAMES} of process {pid}", memoryview(names)) as beginning:
        return {loop["header"]["ticks_base"]: number for number, loop in beginning.loops().items()}
