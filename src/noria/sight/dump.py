"""Writing recordings of this process: from now on, or what its rings have (a flight recording).

noria.sight.recording has the format.
"""

from __future__ import annotations

import contextlib
import os
import struct
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from noria._core.recorder.reader import RingReader
from noria.errors import RecordingError, error_message
from noria.sight import record_kinds, recording
from noria.sight.messages import warn
from noria.sight.ring_records import RECORD_SIZE, new_records
from noria.sight.snapshot import encode_snapshot

if TYPE_CHECKING:
    from noria.sight.agent import Agent
    from noria.sight.watched_loop import WatchedLoop


_RECORD = struct.Struct("=QQQ")  # struct Record in events.pxd


class _LoopWriter:
    """The position in one loop's ring and names."""

    def __init__(self, fd: int, watched: WatchedLoop, whole: bool) -> None:
        self.fd = fd
        self.watched = watched
        self.names = 0
        self.dropped = 0
        self.records = 0
        self.last = b""  # the last record that was written
        self.reader = RingReader(watched.recorder.fd)
        if not whole:
            self.reader.skip()
        description = watched.description(self.reader.header())
        recording.write_json(fd, "loop", description, watched.id)

    def write(self) -> None:
        """Write the new names and records. Raises OSError."""
        loop = self.watched.id
        for records in new_records(self.reader):
            self.write_names()
            self.write_dropped()
            recording.write_records(self.fd, loop, records)
            self.records += len(records) // RECORD_SIZE
            self.last = records[-RECORD_SIZE:] or self.last

    def end_turn(self) -> bool:
        """Write that the running turn and its handler end now; return whether there is one.

        The ring does not get that record: others may observe the loop further. Raises OSError.
        """
        if self.watched.released or not self.reader.header()["turn_started"]:
            return False
        self.watched.recorder.record(record_kinds.NOTHING)  # has the time
        self.write()
        stamp, _, _ = _RECORD.unpack(self.last)
        end = _RECORD.pack(stamp >> 8 << 8 | record_kinds.RUN_END, 0, 0)
        recording.write_records(self.fd, self.watched.id, end)
        return True

    def write_dropped(self) -> None:
        """Write how many records are missing before the next ones. Raises OSError."""
        if self.reader.dropped > self.dropped:
            loop, count = self.watched.id, self.reader.dropped - self.dropped
            recording.write_json(self.fd, "dropped", {"loop": loop, "count": count}, loop)
            self.dropped = self.reader.dropped

    def write_names(self) -> None:
        """Write the names that are new since the last call. Raises OSError."""
        if self.watched.released:
            return
        names = self.watched.recorder.names_after(self.names)
        if names:
            self.names += len(names)
            loop = self.watched.id
            recording.write_json(self.fd, "names", {"loop": loop, "names": names}, loop)


class RecordingWriter:
    """An open recording of this process. One thread at a time may call its methods.

    Args:
        path: the file, which is created or truncated.
        whole: whether to begin with the oldest records in the rings, else with the next ones.

    Raises OSError.
    """

    def __init__(self, agent: Agent, path: str | os.PathLike[str], *, whole: bool = False) -> None:
        self.agent = agent
        self.path = os.fspath(path)
        self.fd = recording.create_file(path)
        self.error: OSError | None = None
        self.loops: dict[int, _LoopWriter] = {}
        self._known: set[int] = set()  # loops that the file has
        self._lost = agent.loops_lost
        self._whole = whole
        self.blocks = 0 if whole else agent.blocks.latest
        self.next_snapshot = 0.0
        self._ended = 0  # records of the loops that are not written any more
        try:
            recording.write_magic(self.fd)
            process = {**agent.process(), "started": time.monotonic_ns()}
            recording.write_json(self.fd, "process", process)
            self._add_loops(whole)
        except BaseException:
            self.abandon()
            raise

    @property
    def records(self) -> int:
        """The number of records written."""
        return self._ended + sum(loop.records for loop in self.loops.values())

    def _add_loops(self, whole: bool) -> None:
        for watched in self.agent.loops:
            if watched.id in self._known or watched.released:
                continue
            try:
                self.loops[watched.id] = _LoopWriter(self.fd, watched, whole)
            except (OSError, RecordingError):
                if not watched.released:
                    raise
            else:
                self._known.add(watched.id)
                watched.was_read = True

    def write(self, leaving: Iterable[WatchedLoop] = ()) -> None:
        """Write what is new. An error (a full disk) is reported, and ends the recording.

        *leaving* are closed loops whose rings are freed afterwards.
        """
        if self.error is not None:
            return
        try:
            self._write()
            for watched in leaving:
                self._write_errors(watched)
        except OSError as error:
            self.error = error
            warn(f"the recording has ended: {self.path}: {error_message(error)}")

    def _write_errors(self, watched: WatchedLoop) -> None:
        """Write the errors of a loop that the next snapshot does not have any more."""
        if watched.id in self._known:
            for error in watched.errors.records():
                recording.write_json(self.fd, "error", {**error, "loop": watched.id}, watched.id)

    def _write_loops(self) -> None:
        for number, loop in list(self.loops.items()):
            released = loop.watched.released
            loop.write()
            if released:
                loop.reader.close()
                self._ended += loop.records
                del self.loops[number]

    def _write_lost(self) -> None:
        """Write how many loops are missing that have begun since the last call."""
        lost = self.agent.loops_lost
        if lost > self._lost:
            recording.write_json(self.fd, "loops_lost", {"count": lost - self._lost})
            self._lost = lost

    def _write(self, *, last: bool = False) -> None:
        self._add_loops(True)  # of a loop that began after the recording, everything
        self._write_loops()
        self._write_lost()
        for block in self.agent.blocks_after(self.blocks):
            self.blocks = max(self.blocks, block["number"])
            if block["loop"] in self._known:
                recording.write_json(self.fd, "block", block, block["loop"])
        now = time.monotonic()
        if last or now >= self.next_snapshot:
            # The last one has the errors and collections of the end.
            latest = self.agent.snapshot(fresh=last)
            began = time.thread_time()
            body = encode_snapshot(latest, {"what": "snapshot"})
            recording.write_encoded(self.fd, body)
            cost = time.thread_time() - began
            self.next_snapshot = now + self.agent.snapshot_interval(cost)

    def close(self) -> None:
        """Write the rest and close the file. Raises the OSError of an earlier write."""
        try:
            if self.error is not None:
                raise self.error
            self._write(last=True)
            if not self._whole:
                self._end_turns()
            recording.write_json(self.fd, "end", {"time": time.monotonic_ns()})
        finally:
            self.abandon()

    def _end_turns(self) -> None:
        """Write the ends of turns and blocks: a program may end the recording in a handler."""
        ended = {number for number, loop in self.loops.items() if loop.end_turn()}
        now = time.monotonic_ns()
        if ended and self.agent.watchdog is not None:
            self.agent.watchdog.update_blocks()
        for block in self.agent.blocks_after():
            if block["loop"] in ended and not block["ended"]:
                block = {**block, "duration": max(block["duration"], now - block["started"])}
                recording.write_json(self.fd, "block", block, block["loop"])

    def abandon(self) -> None:
        """Close the file without writing."""
        self._ended = self.records
        for loop in self.loops.values():
            loop.reader.close()
        self.loops = {}
        with contextlib.suppress(OSError):
            os.close(self.fd)


def dump_rings(agent: Agent, path: str | os.PathLike[str]) -> int:
    """Write the flight recording: what the rings have, and a snapshot.

    Returns the number of records. Raises OSError.
    """
    writer = RecordingWriter(agent, path, whole=True)
    writer.close()
    return writer.records


def numbered_path(path: str, pid: int) -> str:
    """Return the path with the process id before its extension, for a child process."""
    root, extension = os.path.splitext(path)
    return f"{root}.{pid}{extension}"


def default_dump_path(directory: str, reason: str) -> str:
    """Return the path of a new flight recording, such as noria-1234-signal-1.noria."""
    for number in range(1, 10_000):
        path = os.path.join(directory, f"noria-{os.getpid()}-{reason}-{number}.noria")
        if not os.path.exists(path):
            break
    return path
