"""Workers of a bus that are killed and replaced, and the log of what they handle.

The log is one file to which all of them append, each record with one write(2), so its order is the
order of the writes, also between processes. A record is a line of words, the second one the time in
seconds by the monotonic clock, which all processes share:

    forked AT PID           a worker begins
    start AT PID NUMBER     the handler of an event has started
    done AT PID NUMBER      it is done
    stalled AT PID          the loop stood still for STALL_SHARE of a claim: claims may have ended
    killed AT PID           the worker is dead; written when it cannot write any more
    broker AT HOW           the broker is about to end ("stop" or "kill"), or answers ("started");
                            "reset": it was killed while it wrote the state of a consumer
    cut AT                  all connections were cut
    slow AT                 the broker answered later than after STALL_SHARE of a claim
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

import noria
from noria.errors import BrokerUnavailable
from support import running

# After this share of a claim without an answer, or without CPU, claims may have ended: they are
# renewed after a third, by the clock of a timer that has the same period.
STALL_SHARE = 0.4
PR_SET_PDEATHSIG = 1

TYPE = "nothing.lost"
GROUP = "g"


class Log:
    """The log, open for appending."""

    def __init__(self, path: Path):
        self.path = path
        self.fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, kind: str, *words: object) -> None:
        """Append a record."""
        record = [kind, f"{time.monotonic():.6f}", *map(str, words)]
        os.write(self.fd, (" ".join(record) + "\n").encode())

    def close(self) -> None:
        os.close(self.fd)


class Workers:
    """Processes, forked from one that has imported everything, so that they start at once."""

    def __init__(self, url: str, log: Log, concurrency: int, claim: float, seed: int):
        self.log = log
        self.errors = log.path.with_suffix(".errors")
        # By pid: a descriptor of the process, which cannot become one of another process.
        self.pids: dict[int, int] = {}
        with open(self.errors, "wb") as errors:
            self.server = subprocess.Popen(
                [
                    *(sys.executable, __file__, url, str(log.path)),
                    *(str(concurrency), str(claim), str(seed)),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=running.environment(),
            )

    def start(self) -> None:
        """Start another worker."""
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(b"+")
        self.server.stdin.flush()
        line = self.server.stdout.readline()
        if not line:
            raise AssertionError(f"no worker was started:\n{self.errors.read_text()}")
        self.pids[int(line)] = os.pidfd_open(int(line))
        self.log.write("forked", int(line))

    def kill(self, pid: int) -> None:
        """End a worker with SIGKILL; when this returns, it is dead."""
        fd = self.pids.pop(pid)
        try:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, signal.SIGKILL)
            select.select([fd], [], [])
        finally:
            os.close(fd)
        self.log.write("killed", pid)

    def check(self) -> None:
        """Fail if a worker has ended by itself, or has logged an error."""
        errors = self.errors.read_text()
        ended, _, _ = select.select(list(self.pids.values()), [], [], 0)
        assert not ended, f"a worker has ended: {errors}"
        assert not errors, errors

    def close(self) -> None:
        """End all of them."""
        for pid in list(self.pids):
            self.kill(pid)
        self.server.kill()
        self.server.communicate()


def serve(url: str, log: str, concurrency: str, claim: str, seed: str) -> None:
    """Fork a worker for each byte of the standard input."""
    # The package of the broker's client.
    make_bus(url, concurrency, claim)
    # Nobody waits for the children.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    count = 0
    while os.read(0, 1):
        count += 1
        pid = os.fork()
        if not pid:
            work(url, log, concurrency, claim, f"{seed} {count}")
        os.write(1, f"{pid}\n".encode())


def make_bus(url: str, concurrency: str, claim: str) -> noria.Bus:
    return noria.Bus(url, concurrency=int(concurrency), claim=float(claim))


def work(url: str, log_path: str, concurrency: str, claim: str, seed: str) -> NoReturn:
    """Handle events until the process is killed."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.close(0)
    os.close(1)
    logging.basicConfig(level=logging.ERROR)
    log = Log(Path(log_path))
    pid = os.getpid()
    pauses = random.Random(seed)

    async def handler(event: noria.Event) -> None:
        number = event.data["number"]
        log.write("start", pid, number)
        if pauses.random() < 0.5:
            await asyncio.sleep(pauses.random() * 0.005)
        log.write("done", pid, number)

    async def watch() -> None:
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            await asyncio.sleep(0.05)
            if loop.time() - started > STALL_SHARE * float(claim):
                log.write("stalled", pid)

    async def main() -> None:
        watching = asyncio.ensure_future(watch())
        while True:
            bus = make_bus(url, concurrency, claim)
            bus.on(TYPE, handler, group=GROUP)
            try:
                await bus.run()
            except BrokerUnavailable:
                await asyncio.sleep(0.05)
            else:
                watching.cancel()
                return

    try:
        noria.run(main())
    except BaseException:
        logging.exception("the worker ends")
    finally:
        os._exit(1)


if __name__ == "__main__":
    serve(*sys.argv[1:])
