"""The deadline of one connection, and the least rate at which its client must send and accept."""

from __future__ import annotations

import socket
import sys
import time
from typing import Any

from noria.http.cycle import RequestResponseCycle
from noria.http.limits import Limits

# A splice that takes longer waits for the disk, not for the client.
MAX_SPLICE_SECONDS = 1.0
TCP_INFO_SIZE = 136  # bytes
BYTES_ACKED_OFFSET = 120  # of tcpi_bytes_acked in struct tcp_info (linux/tcp.h)


class Timeouts:
    """`deadline` is the time, by time.monotonic(), at which the client must have sent a head."""

    __slots__ = ("_ack_sample", "_limits", "deadline")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.deadline = time.monotonic() + limits.head_timeout
        # A time, and the bytes that the client had acknowledged by then.
        self._ack_sample: tuple[float, int] | None = None

    def sends_too_slowly(self, cycle: RequestResponseCycle, now: float) -> bool:
        """Whether less of the body arrived than `min_rate` requires, though it was waited for."""
        limits, body = self._limits, cycle.body
        since, count = cycle.rate_sample
        if body is None or now - since < limits.rate_window:
            return False
        disk_is_slow = body.splicing_since and now - body.splicing_since > MAX_SPLICE_SECONDS
        waits_for_client = not body.unread and not disk_is_slow
        slow = waits_for_client and body.received - count < limits.min_rate * limits.rate_window
        cycle.rate_sample = (now, body.received)
        return bool(slow)

    def accepts_too_slowly(self, transport: Any, sending: bool, now: float) -> bool:
        """Whether the client acknowledged less than `min_rate` requires of what is to be sent."""
        if not sending and not transport.get_write_buffer_size():
            self._ack_sample = None
            return False
        acked = bytes_acked(transport.get_extra_info("socket"))
        if acked is None:
            return False
        if self._ack_sample is None:
            self._ack_sample = (now, acked)
            return False
        limits = self._limits
        since, count = self._ack_sample
        if now - since < limits.rate_window:
            return False
        self._ack_sample = (now, acked)
        return acked - count < limits.min_rate * limits.rate_window


def bytes_acked(sock: socket.socket) -> int | None:
    """The number of bytes that the peer has acknowledged (TCP_INFO, tcp(7)).

    Returns None where the kernel does not count them.
    """
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_SIZE)
    except (OSError, AttributeError):
        return None
    if len(info) < BYTES_ACKED_OFFSET + 8:
        return None
    return int.from_bytes(info[BYTES_ACKED_OFFSET : BYTES_ACKED_OFFSET + 8], sys.byteorder)
