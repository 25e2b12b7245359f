"""Records and recordings made by hand, with known figures.

`Ring` makes the records of one loop; `synthetic_recording(path, scenario)` writes a file:

    "echo"        two connections: one echoes 10 messages of 1 KiB, the other is paused
    "blocked"     a task whose step takes 400 ms while 20 events wait; a block with a stack
    "tasks"       five tasks: one wakes itself, one sleeps, one waits for a lock, two are done
    "everything"  these one after the other, then jobs, files, a collection and an exception
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

from noria.sight import recording

RECORD = struct.Struct("=QQQ")
BASE = 1_000_000_000_000  # CLOCK_MONOTONIC of the first tick, ns
REALTIME = 1_700_000_000_000_000_000
MS = 1_000_000

KINDS = {
    "RUN_BEGIN": 1, "RUN_END": 2, "TURN": 3, "WAIT": 4, "WOKE": 5, "POLL": 6, "WAKEUP": 7,
    "CALL": 8, "STEP": 9, "IO": 10, "TIMER_CALL": 11, "TIMER_STEP": 12,
    "TASK_CREATED": 16, "TASK_NAMED": 17, "TIMER": 18, "EXCEPTION": 19, "RECEIVE": 24, "SEND": 25,
    "UNSENT": 26, "ACCEPT": 27, "CONNECT": 28, "OPEN": 29, "CLOSE": 30, "PAUSE_READING": 31,
    "RESUME_READING": 32, "PAUSE_WRITING": 33, "RESUME_WRITING": 34, "END_OF_STREAM": 35,
    "TLS": 36, "CALLER": 37, "FILE_BEGIN": 40, "FILE_END": 41, "JOB_QUEUED": 42, "JOB_BEGIN": 43,
    "JOB_END": 44, "GC_BEGIN": 45, "GC_END": 46, "COUNTER": 56, "CLOCK": 57, "MARK": 58,
}  # fmt: skip

HEADER: dict[str, Any] = {
    "version": 1,
    "record_size": 24,
    "capacity": 1024,
    "head": 0,
    "ticks_base": 0,
    "monotonic_base_ns": BASE,
    "realtime_base_ns": REALTIME,
    "ns_per_tick": 1.0,
    "turn_started": 0,
    "turn_queue": 0,
    "turns": 0,
    "pid": 4242,
    "thread_native_id": 4242,
    "thread_ident": 1,
    "model": "epoll",
}


class Ring:
    """Makes the records of a loop as the loop would write them; `time` is in ns since the begin.

    The queue is simulated: `call`, `step` and `io` take the next event, `queue` adds events that
    the running handler queues, `woke`, `poll` and `timer` add those of the loop.
    """

    def __init__(self) -> None:
        self.records = bytearray()
        self.time = 0
        self.queued = 0
        self.taken = 0
        self.turn_number = 0
        self.names: list[list[Any]] = []
        self.snapshot: dict[str, Any] = {"id": 0}

    def put(
        self, kind: str, a: int = 0, b: int = 0, *, after: int = 0, first: bool = False
    ) -> None:
        """Write a record, `after` ns after the one before; `first`: it also begins a turn."""
        self.time += after
        mask = (1 << 64) - 1
        self.records += RECORD.pack(self.time << 8 | first << 7 | KINDS[kind], a & mask, b & mask)

    def intern(self, kind: str, name: str, file: str = "", line: int = 0) -> int:
        """Return the id of a name."""
        number = 0x7F0000000000 + 64 * len(self.names)
        self.names.append([number, kind, name, file, line])
        return number

    def queue(self, count: int = 1) -> None:
        """The running handler queues events."""
        self.queued += count

    def turn(self, *, timers: int = 0, after: int = 0) -> None:
        """Begin the handlers of a turn."""
        self.turn_number += 1
        self.put("TURN", self.queued - self.taken | timers << 32, self.turn_number, after=after)

    def wait(self, length: int, events: int, *, after: int = 0) -> None:
        """Sleep for `length` ns; then there are events."""
        self.put("WAIT", -1, after=after)
        self.put("WOKE", events, after=length)
        self.queued += events

    def poll(self, events: int = 0, *, after: int = 0) -> None:
        """Poll without waiting."""
        self.put("POLL", events, after=after)
        self.queued += events

    def timer(self, due: int) -> None:
        """Queue a due timer; `due` is in ns since the begin."""
        self.put("TIMER", BASE + due, BASE + self.time)
        self.queued += 1

    def handler(
        self, kind: str, a: int, b: int = 0, *, after: int = 0, first: bool = False
    ) -> None:
        """Take the next event."""
        self.turn_number += first
        self.put(kind, a | (self.queued & 0xFFFF) << 48, b, after=after, first=first)
        self.taken += 1

    def call(self, code: int, *, after: int = 0) -> None:
        """Run a callback."""
        self.handler("CALL", code, after=after)

    def step(self, task: int, code: int, *, after: int = 0) -> None:
        """Run a step of a task."""
        self.handler("STEP", code, task, after=after)

    def io(self, fd: int, protocol: int = 0, *, kind: int = 2, after: int = 0) -> None:
        """Run a channel's handler."""
        self.handler("IO", fd | kind << 32, protocol, after=after)


def write_recording(path: Path, loops: dict[int, Ring], more: list[dict[str, Any]]) -> None:
    """Write a recording of some loops; `more` are JSON objects, each with "what"."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        recording.write_magic(fd)
        process = {
            "pid": 4242,
            "command": "python -m service",
            "python": "3.13.0",
            "noria": "1.0",
            "max_block": 100 * MS,
        }
        recording.write_json(fd, "process", process)
        for number, ring in loops.items():
            info = {"id": number, "model": "epoll", "thread_name": "MainThread", "header": HEADER}
            recording.write_json(fd, "loop", info)
            half = len(ring.records) // 48 * 24
            recording.write_records(fd, number, bytes(ring.records[:half]))
            recording.write_records(fd, number, bytes(ring.records[half:]))
            recording.write_json(fd, "names", {"loop": number, "names": ring.names})
        for each in more:
            recording.write_json(fd, each["what"], each)
        end = max((ring.time for ring in loops.values()), default=0)
        recording.write_json(fd, "end", {"time": BASE + end})
    finally:
        os.close(fd)


def echo(ring: Ring, more: list[dict[str, Any]]) -> None:
    """10 messages on descriptor 10; descriptor 11 is paused and has unread bytes."""
    echo_protocol = ring.intern("type", "service.Echo")
    opener = ring.intern("code", "Client.open", "/srv/client.py", 10)
    ring.put("COUNTER", 0, 100)
    for index in (2, 4, 6, 8):
        ring.put("COUNTER", index, 0)
    ring.wait(2 * MS, 1, after=1000)
    ring.turn(after=1000)
    ring.io(9, kind=3, after=1000)
    ring.put("ACCEPT", 9, 10, after=5000)
    ring.put("OPEN", 10, echo_protocol, after=1000)
    ring.put("CONNECT", 11, after=1000)
    ring.put("OPEN", 11, echo_protocol)
    ring.put("CALLER", 11 | 14 << 32, opener)
    ring.put("PAUSE_READING", 11, after=1000)
    ring.put("CALLER", 11 | 17 << 32, opener)
    for _ in range(10):
        ring.wait(10 * MS, 1, after=5000)
        ring.turn(after=1000)
        ring.io(10, echo_protocol, after=1000)
        ring.put("RECEIVE", 10, 1024, after=3000)
        ring.put("SEND", 10, 1024, after=20_000)
    for index, value in ((0, 111), (2, 10), (4, 10), (6, 1), (8, 3)):
        ring.put("COUNTER", index, value)
    ring.wait(5 * MS, 0, after=5000)
    connections = [
        {"fd": 10, "peer": "127.0.0.1:5000", "local": "127.0.0.1:80", "unread": 0},
        {"fd": 11, "peer": "127.0.0.1:81", "local": "127.0.0.1:6000", "unread": 70_000},
    ]
    more.append(snapshot(ring, connections=connections))


def blocked(ring: Ring, more: list[dict[str, Any]]) -> None:
    """A step of 400 ms before 20 callbacks, which wait."""
    guilty = ring.intern("code", "Report.render", "/srv/report.py", 40)
    small = ring.intern("code", "on_tick", "/srv/ticks.py", 5)
    name = ring.intern("string", "renderer")
    ring.put("TASK_CREATED", guilty, 0x5000)
    ring.put("TASK_NAMED", name, 0x5000)
    ring.wait(1 * MS, 21, after=1000)
    ring.turn(after=1000)
    started = ring.time
    ring.step(0x5000, guilty)
    for i in range(20):
        ring.call(small, after=1000 if i else 400 * MS)
    ring.poll(0, after=1000)
    ring.turn()
    ring.wait(30 * MS, 0, after=1000)
    stack = [
        ["main", "/srv/app.py", 100, "asyncio.run(main())"],
        ["Report.render", "/srv/report.py", 47, "rows = sorted(rows)"],
    ]
    block = {"started": BASE + started, "duration": 300 * MS, "ended": False, "stack": stack}
    more.append({"what": "block", "loop": 0, "task": "renderer", "cpu": 300 * MS, **block})


def tasks(ring: Ring, more: list[dict[str, Any]]) -> None:
    """0x1000 wakes itself 50 times, 0x2000 sleeps, 0x3000 waits for a lock, two are done."""
    spin = ring.intern("code", "spin", "/srv/spin.py", 1)
    sleeper = ring.intern("code", "sleeper", "/srv/sleeper.py", 2)
    worker = ring.intern("code", "worker", "/srv/worker.py", 3)
    done = ring.intern("code", "request", "/srv/request.py", 4)
    wake = ring.intern("code", "_set_result_unless_cancelled", "/lib/asyncio/futures.py", 310)
    created = ((0x1000, spin), (0x2000, sleeper), (0x3000, worker), (0x4000, done), (0x4040, done))
    first = ring.intern("code", "main", "/srv/app.py", 1)
    ring.put("RUN_BEGIN", 4242)
    ring.queue(1)
    ring.turn()
    ring.call(first)
    for task, code in created:
        ring.put("TASK_CREATED", code, task, after=1000)
        ring.put("TASK_NAMED", ring.intern("string", f"Task-{task:x}"), task)
        ring.queue()
    ring.poll(0, after=1000)
    ring.turn()
    for task, code in created:
        ring.step(task, code, after=10_000)
        if task == 0x1000:
            ring.queue()
    for _ in range(50):
        ring.poll(0, after=2000)
        ring.turn(timers=1)
        ring.step(0x1000, spin)
        ring.queue()
    due = ring.time + 1 * MS
    ring.poll(0, after=2 * MS)
    ring.timer(due)
    ring.turn()
    ring.step(0x1000, spin)
    ring.handler("TIMER_CALL", wake, after=2000)
    ring.queue()
    ring.poll(0, after=1000)
    ring.turn()
    ring.step(0x2000, sleeper)
    ring.wait(5 * MS, 0, after=4000)
    places = {"waiting_at": [["worker", "/srv/worker.py", 9, "async with lock:"]]}
    alive = [
        {"id": 0x1000, "name": "spin", "state": "waiting"},
        {"id": 0x2000, "name": "sleeper", "state": "waiting", "waiting_for": "sleep"},
        {"id": 0x3000, "name": "worker", "state": "waiting", "waiting_for": "Lock", **places},
    ]
    more.append(snapshot(ring, tasks=alive))


def rest(ring: Ring, more: list[dict[str, Any]]) -> None:
    """Jobs, files, collections and an exception."""
    job = ring.intern("code", "compress", "/srv/zip.py", 7)
    failing = ring.intern("code", "on_failure", "/srv/fail.py", 8)
    error = ring.intern("type", "ZeroDivisionError")
    ring.wait(1 * MS, 2, after=1000)
    ring.turn()
    ring.call(failing, after=1000)
    ring.put("JOB_QUEUED", 1, job)
    ring.put("JOB_QUEUED", 2, job)
    ring.put("JOB_QUEUED", 3, job)
    ring.put("FILE_BEGIN", 1, 2)
    ring.put("JOB_BEGIN", 1, job, after=10_000)
    ring.put("GC_BEGIN", 2)
    ring.put("GC_END", 77, after=8 * MS)
    ring.call(failing, after=1000)
    ring.put("EXCEPTION", error, failing, after=1000)
    ring.wait(20 * MS, 0)
    ring.put("JOB_END", 1)
    ring.put("JOB_BEGIN", 2, job)
    ring.put("FILE_END", 1, 4096)
    ring.put("FILE_BEGIN", 2, 2)
    ring.put("FILE_END", 2, -5, after=1 * MS)
    ring.put("WAKEUP", 4250)
    ring.turn()
    ring.wait(1 * MS, 0)
    extra = {"executor": {"workers": 1, "max_workers": 1}, "timers": {"pending": 3}}
    more.append(snapshot(ring, **extra))


def snapshot(ring: Ring, **fields: Any) -> dict[str, Any]:
    """Return a snapshot of loop 0 now: what those before had, and `fields`."""
    ring.snapshot = {**ring.snapshot, **fields}
    return {"what": "snapshot", "time": BASE + ring.time, "loops": [ring.snapshot]}


SCENARIOS = {
    "echo": (echo,),
    "blocked": (blocked,),
    "tasks": (tasks,),
    "everything": (echo, blocked, tasks, rest),
}


def synthetic_recording(path: Path, scenario: str = "everything") -> None:
    """Write a recording of a scenario."""
    ring = Ring()
    more: list[dict[str, Any]] = []
    ring.put("RUN_BEGIN", 4242)
    ring.put("CLOCK", BASE, REALTIME)
    for part in SCENARIOS[scenario]:
        part(ring, more)
    ring.put("RUN_END")
    write_recording(path, {0: ring}, more)
