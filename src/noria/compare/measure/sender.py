"""Sends sample messages with pauses, and notes when each was sent and when it had arrived.

"Sent" is right before the call of send, and travels in the message's first eight bytes too.
"Arrived" is the kernel's own time stamp of the moment when it handed the message to the loopback
interface, on whose other end the receiver's kernel is (SO_TIMESTAMPING). The return of send is
later than that: the kernel wakes the receiver before it returns, and the receiver may even have
handled the message by then. Where the kernel gives no such stamp, the return of send is taken.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time

SO_TIMESTAMPING = 37
# linux/net_tstamp.h: stamp what is sent, in software, without giving the data back.
TX_SOFTWARE, SOFTWARE, OPT_TSONLY = 1 << 1, 1 << 4, 1 << 11
STAMPS = struct.Struct("@6q")


def send(host: str, port: int, *, size: int, samples: int, warmup: int, pause_ms: float) -> Samples:
    """Sends `warmup` and then `samples` messages of `size` bytes, `pause_ms` after one another.

    Returns for each sample [sent, arrived, returned], in nanoseconds of CLOCK_MONOTONIC.
    """
    message = bytearray(size)
    noted = []
    with socket.create_connection((host, port), timeout=5.0) as sock:
        # With a time limit, Python would wait for it whenever there is no stamp yet.
        sock.settimeout(None)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):
            flags = TX_SOFTWARE | SOFTWARE | OPT_TSONLY
            sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, flags)
        for number in range(-warmup, samples):
            time.sleep(pause_ms / 1000)
            ahead = _real_time_ahead()
            sent = time.monotonic_ns()
            struct.pack_into("@q", message, 0, sent)
            sock.sendall(message)
            returned = time.monotonic_ns()
            stamp = _stamp(sock)
            arrived = returned if stamp is None else stamp - ahead
            if number >= 0:
                noted.append([sent, min(max(arrived, sent), returned), returned])
        # When the server has closed too, it has handled all there was.
        sock.shutdown(socket.SHUT_WR)
        sock.settimeout(5.0)
        while sock.recv(65536):
            pass
    return noted


def _real_time_ahead() -> int:
    """CLOCK_REALTIME less CLOCK_MONOTONIC, in nanoseconds: of five looks the quickest one's."""
    looks = []
    for _ in range(5):
        before = time.monotonic_ns()
        now = time.clock_gettime_ns(time.CLOCK_REALTIME)
        after = time.monotonic_ns()
        looks.append((after - before, now - (before + after) // 2))
    return min(looks)[1]


def _stamp(sock: socket.socket) -> int | None:
    """The kernel's time stamp of what was sent last, in nanoseconds of CLOCK_REALTIME."""
    latest = None
    while True:
        try:
            _, notes, _, _ = sock.recvmsg(0, 512, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)
        except OSError:
            return latest
        for level, kind, data in notes:
            if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPING) and len(data) == STAMPS.size:
                seconds, nanoseconds, *_ = STAMPS.unpack(data)
                latest = seconds * 1_000_000_000 + nanoseconds


Samples = list[list[int]]
