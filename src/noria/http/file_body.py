"""Bytes of files on their way out, without a wait for the disk on the loop's thread."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator

from noria.http.messages import FileBody

BLOCK = 256 * 1024
TCP_INFO_SIZE = 136
BYTES_ACKED = 120  # offset of tcpi_bytes_acked in struct tcp_info (linux/tcp.h)


async def blocks(body: FileBody) -> AsyncIterator[bytes]:
    """The file block by block, each read by a thread; ends early if the file became shorter."""
    loop = asyncio.get_running_loop()
    offset, end = body.offset, body.offset + body.size
    while offset < end:
        size = min(BLOCK, end - offset)
        block = await loop.run_in_executor(None, os.pread, body.fd, size, offset)
        if not block:
            return
        offset += len(block)
        yield block


def acknowledged(sock: socket.socket) -> int | None:
    """How many bytes the peer has acknowledged, tcp(7); None where the kernel does not count."""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_SIZE)
    except (OSError, AttributeError):
        return None
    if len(info) < BYTES_ACKED + 8:
        return None
    return int.from_bytes(info[BYTES_ACKED : BYTES_ACKED + 8], sys.byteorder)
