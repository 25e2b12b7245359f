"""Idle keep-alive connections, and slow clients (slowhttptest)."""

from __future__ import annotations

import contextlib
import select
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import replace

from harness import Unavailable
from rows.loads import load_process
from rows.row import Place

from fileservers.servers import SMALL_BYTES

REQUEST = b"GET /small/00 HTTP/1.1\r\nHost: localhost\r\n\r\n"
ANSWER_SECONDS = 10.0
ESTABLISHED = "01"  # in /proc/net/tcp

# Number of connections. The kernel buffers about 4 MB for each slow reader; more readers would
# exceed the kernel's TCP memory (tcp_mem, tcp(7)) and slow down every connection.
SLOW = {"heads": 500, "bodies": 500, "readers": 200}
CONNECTIONS_PER_SECOND = 200
FILLED_SECONDS = 1.5  # until the kernel's buffers for slow readers are full
SLOW_SECONDS = 60  # longer than any measurement, which kills the program at its end
# Seconds measured with slow clients: a server may close slow heads after 10 s.
SLOW_MEASURED = 4
KINDS = {
    "heads": ["-H", "-u", "http://127.0.0.1:{port}/small/00"],
    "bodies": ["-B", "-t", "PUT", "-s", "1000000", "-u", "http://127.0.0.1:{port}/late"],
    "readers": ["-X", "-w", "1024", "-y", "2048", "-n", "1", "-z", "1024",
                "-u", "http://127.0.0.1:{port}/slow"],
}  # fmt: skip


@contextlib.contextmanager
def keep_alive_connections(port: int, count: int) -> Iterator[None]:
    """Hold connections after one response each; raises Unavailable if the server closes one."""
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(connect_and_get(port)) for _ in range(count)]
        yield
        poll = select.poll()
        for sock in held:
            poll.register(sock, select.POLLIN)
        if ended := len(poll.poll(0)):
            raise Unavailable(f"the server closed {ended:,} connections")


def connect_and_get(port: int) -> socket.socket:
    """Return a connection that has received the response to one GET."""
    sock = socket.create_connection(("127.0.0.1", port), ANSWER_SECONDS)
    try:
        sock.sendall(REQUEST)
        answer = b""
        while len(answer.partition(b"\r\n\r\n")[2]) < SMALL_BYTES:
            data = sock.recv(65536)
            if not data:
                raise Unavailable("the server closed a connection before the end of the response")
            answer += data
    except OSError as error:
        sock.close()
        raise Unavailable(f"a connection received no response: {error}") from None
    except BaseException:
        sock.close()
        raise
    if not answer.startswith(b"HTTP/1.1 200"):
        sock.close()
        raise Unavailable(f"the server responded {answer[:20]!r}")
    return sock


@contextlib.contextmanager
def slow(kind: str, port: int, at: Place) -> Iterator[None]:
    """Hold slow connections with slowhttptest; raises Unavailable if the server closes most."""
    program = shutil.which("slowhttptest")
    if not program:
        raise Unavailable("slowhttptest is not installed")
    count = SLOW[kind]
    words = [
        program,
        "-c",
        str(count),
        "-r",
        str(CONNECTIONS_PER_SECOND),
        "-i",
        "2",
        "-l",
        str(SLOW_SECONDS),
    ]
    if idle := shutil.which("chrt"):
        # slowhttptest shares a core with wrk, so run it with idle priority (SCHED_IDLE, sched(7)).
        words = [idle, "--idle", "0", *words]
    words += ["-p", "3", "-v", "0", *(word.format(port=port) for word in KINDS[kind])]
    with load_process(words, replace(at, seconds=SLOW_SECONDS)) as process:
        latest = time.monotonic() + count / CONNECTIONS_PER_SECOND + ANSWER_SECONDS
        while (accepted := count_established(port)) < count:
            if process.poll() is not None or time.monotonic() > latest:
                raise Unavailable(f"only {accepted} of {count} slow clients connected")
            time.sleep(0.05)
        time.sleep(FILLED_SECONDS)
        yield
        if (left := count_established(port)) < count // 2:
            raise Unavailable(f"the server closed all but {left} slow clients")


def count_established(port: int) -> int:
    """Return the number of established connections of a server on 127.0.0.1 (proc_net_tcp)."""
    here = f"0100007F:{port:04X}"
    with open("/proc/net/tcp") as lines:
        return sum(line.split()[1:4:2] == [here, ESTABLISHED] for line in lines)
