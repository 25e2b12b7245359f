"""Idle keep-alive connections, and clients that are slow by intent."""

from __future__ import annotations

import contextlib
import select
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import replace

from harness import Unavailable
from rows.loads import started
from rows.row import Place

from fileservers.servers import SMALL_BYTES

ASK = b"GET /small/00 HTTP/1.1\r\nHost: localhost\r\n\r\n"
ANSWER_SECONDS = 10.0
ESTABLISHED = "01"  # in /proc/net/tcp

# How many connections. The kernel buffers some 4 MB for each reader, and has little more memory for
# TCP (tcp_mem) than so many take: above that, all connections of the machine are slow.
SLOW = {"heads": 500, "bodies": 500, "readers": 200}
A_SECOND = 200  # so many of them are made
FILLED_SECONDS = 1.5  # until the kernel's buffers for those who do not read are full
SLOW_SECONDS = 60  # longer than any measurement: it is ended
# Seconds that are measured beside slow clients: a server may end slow heads after 10 s.
SLOW_MEASURED = 4
KINDS = {
    "heads": ["-H", "-u", "http://127.0.0.1:{port}/small/00"],
    "bodies": ["-B", "-t", "PUT", "-s", "1000000", "-u", "http://127.0.0.1:{port}/late"],
    "readers": ["-X", "-w", "1024", "-y", "2048", "-n", "1", "-z", "1024",
                "-u", "http://127.0.0.1:{port}/slow"],
}  # fmt: skip


@contextlib.contextmanager
def kept_alive(port: int, count: int) -> Iterator[None]:
    """Hold connections that each had an answer; raises Unavailable if the server ends one."""
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(asked(port)) for _ in range(count)]
        yield
        poll = select.poll()
        for sock in held:
            poll.register(sock, select.POLLIN)
        if ended := len(poll.poll(0)):
            raise Unavailable(f"it closed {ended:,} connections")


def asked(port: int) -> socket.socket:
    """A connection that has had the answer to one GET."""
    sock = socket.create_connection(("127.0.0.1", port), ANSWER_SECONDS)
    try:
        sock.sendall(ASK)
        answer = b""
        while len(answer.partition(b"\r\n\r\n")[2]) < SMALL_BYTES:
            data = sock.recv(65536)
            if not data:
                raise Unavailable("it closed a connection in place of an answer")
            answer += data
    except OSError as error:
        sock.close()
        raise Unavailable(f"a connection had no answer: {error}") from None
    except BaseException:
        sock.close()
        raise
    if not answer.startswith(b"HTTP/1.1 200"):
        sock.close()
        raise Unavailable(f"it answered {answer[:20]!r}")
    return sock


@contextlib.contextmanager
def slow(kind: str, port: int, at: Place) -> Iterator[None]:
    """Have slowhttptest hold its connections to the server; they must be there at the end too."""
    program = shutil.which("slowhttptest")
    if not program:
        raise Unavailable("slowhttptest is not installed")
    count = SLOW[kind]
    words = [program, "-c", str(count), "-r", str(A_SECOND), "-i", "2", "-l", str(SLOW_SECONDS)]
    if idle := shutil.which("chrt"):
        # They are slow by intent, and share a core with those that are measured: those go first.
        words = [idle, "--idle", "0", *words]
    words += ["-p", "3", "-v", "0", *(word.format(port=port) for word in KINDS[kind])]
    with started(words, replace(at, seconds=SLOW_SECONDS)) as process:
        latest = time.monotonic() + count / A_SECOND + ANSWER_SECONDS
        while (came := connected(port)) < count:
            if process.poll() is not None or time.monotonic() > latest:
                raise Unavailable(f"only {came} of {count} slow clients came in")
            time.sleep(0.05)
        time.sleep(FILLED_SECONDS)
        yield
        if (left := connected(port)) < count // 2:
            raise Unavailable(f"it ended the slow clients but for {left}")


def connected(port: int) -> int:
    """How many connections a server on 127.0.0.1 has, that neither side has begun to end."""
    here = f"0100007F:{port:04X}"
    with open("/proc/net/tcp") as lines:
        return sum(line.split()[1:4:2] == [here, ESTABLISHED] for line in lines)
