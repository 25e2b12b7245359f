"""Bytes of files on their way out, without a wait for the disk on the loop's thread."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator
from typing import Any

from noria.fileserver.messages import FileBody

SMALL = 64 * 1024  # a file that goes out in one write with its head
BLOCK = 256 * 1024
TCP_INFO_SIZE = 136
BYTES_ACKED = 120  # offset of tcpi_bytes_acked in struct tcp_info (linux/tcp.h)


def cached(body: FileBody) -> bytes | None:
    """A small file's bytes if all are in the page cache (preadv2(2), RWF_NOWAIT), else None."""
    if body.size > SMALL:
        return None
    room = bytearray(body.size)
    try:
        if os.preadv(body.fd, [room], body.offset, os.RWF_NOWAIT) != body.size:
            return None
    except OSError:  # not in the cache, or a file system that cannot tell
        return None
    return bytes(room)


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


def cork(transport: Any) -> bool:
    """Has the head of a file wait for the file's first bytes, tcp(7): alone, it makes the kernel
    believe that this connection has little to say, and slow. Whether `uncork` is to be called."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
    except OSError:
        return False
    return True


def uncork(transport: Any) -> None:
    """What is left goes out."""
    with contextlib.suppress(OSError):
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)


def acknowledged(sock: socket.socket) -> int | None:
    """How many bytes the peer has acknowledged, tcp(7); None where the kernel does not count."""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_SIZE)
    except (OSError, AttributeError):
        return None
    if len(info) < BYTES_ACKED + 8:
        return None
    return int.from_bytes(info[BYTES_ACKED : BYTES_ACKED + 8], sys.byteorder)
