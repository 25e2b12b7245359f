"""Sends sample messages with pauses, and records when each was sent and when it arrived.

"Sent" is the time right before send(2); the first eight bytes of the message contain it too.
"Arrived" is the kernel's timestamp (SO_TIMESTAMPING) of passing the message to the loopback
interface. send(2) returns later: the kernel wakes the receiver first, which may even have handled
the message by then. Without a timestamp, "arrived" is the time at which send(2) returned.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time

SO_TIMESTAMPING = 37
# linux/net_tstamp.h: software timestamps of sent data, without a copy of the data.
TX_SOFTWARE, SOFTWARE, OPT_TSONLY = 1 << 1, 1 << 4, 1 << 11
TIMESTAMPS = struct.Struct("@6q")


def send_samples(
    host: str, port: int, *, size: int, samples: int, warmup: int, pause_ms: float
) -> Samples:
    """Send `warmup`, then `samples` messages of `size` bytes, with `pause_ms` between them.

    Return for each sample [sent, arrived, returned], in nanoseconds of CLOCK_MONOTONIC.
    """
    message = bytearray(size)
    recorded = []
    with socket.create_connection((host, port), timeout=5.0) as sock:
        # With a timeout, recvmsg would wait for it if there is no timestamp yet.
        sock.settimeout(None)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):
            flags = TX_SOFTWARE | SOFTWARE | OPT_TSONLY
            sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, flags)
        for number in range(-warmup, samples):
            time.sleep(pause_ms / 1000)
            offset = _realtime_offset_ns()
            sent = time.monotonic_ns()
            struct.pack_into("@q", message, 0, sent)
            sock.sendall(message)
            returned = time.monotonic_ns()
            timestamp = _timestamp(sock)
            arrived = returned if timestamp is None else timestamp - offset
            if number >= 0:
                recorded.append([sent, min(max(arrived, sent), returned), returned])
        # When the server has closed too, it has handled all messages.
        sock.shutdown(socket.SHUT_WR)
        sock.settimeout(5.0)
        while sock.recv(65536):
            pass
    return recorded


def _realtime_offset_ns() -> int:
    """CLOCK_REALTIME minus CLOCK_MONOTONIC in nanoseconds: the quickest of five readings."""
    readings = []
    for _ in range(5):
        before = time.monotonic_ns()
        now = time.clock_gettime_ns(time.CLOCK_REALTIME)
        after = time.monotonic_ns()
        readings.append((after - before, now - (before + after) // 2))
    return min(readings)[1]


def _timestamp(sock: socket.socket) -> int | None:
    """The kernel's timestamp of the last sent data, in nanoseconds of CLOCK_REALTIME, or None."""
    latest = None
    while True:
        try:
            _, ancillary, _, _ = sock.recvmsg(0, 512, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)
        except OSError:
            return latest
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPING) and len(
                data
            ) == TIMESTAMPS.size:
                seconds, nanoseconds, *_ = TIMESTAMPS.unpack(data)
                latest = seconds * 1_000_000_000 + nanoseconds


Samples = list[list[int]]
