"""A datagram socket between a model and an asyncio.DatagramProtocol."""

from cpython.bytes cimport PyBytes_FromStringAndSize

from noria._core.address cimport noria_address
from noria._core.contract cimport RECEIVE, SEND, Channel
from noria._core.loop cimport Loop

import logging
import os
import socket
from collections import deque

log = logging.getLogger("noria")


cdef class Datagrams(Channel):
    """The methods of asyncio.DatagramTransport. The socket stays a Python socket, as sending to
    an address goes through its own conversion of addresses."""

    cdef object protocol
    cdef object sock
    cdef Loop loop
    cdef object waiting
    cdef bint closed, closing

    def __init__(self, Loop loop, sock, protocol):
        self.loop = loop
        self.model = loop.model
        self.sock = sock
        self.protocol = protocol
        self.waiting = deque()
        self.datagrams = True
        self.fd = sock.fileno()
        protocol.connection_made(self)
        self.model.watch(self, RECEIVE)

    cdef int datagram_received(self, const char *data, Py_ssize_t n, void *address,
                               unsigned length) except -1:
        if not self.closed:
            self.protocol.datagram_received(PyBytes_FromStringAndSize(data, n),
                                            noria_address(address, length))
        return 0

    cdef int received(self, const char *data, Py_ssize_t n) except -1:
        return self.datagram_received(data, n, NULL, 0)

    cdef int failed(self, int error) except -1:
        if not self.closed:
            self.protocol.error_received(OSError(error, os.strerror(error)))
        return 0

    cdef bint handle_error(self, object error) except -1:
        if self.protocol is None:
            return False
        log.error("%r raised: its socket is closed", self.protocol, exc_info=error)
        self.force_close(error)
        return True

    def sendto(self, data, addr=None):
        """Sends one datagram, now or when there is room; `addr` None for the connected peer."""
        if self.closed or self.closing:
            return
        data = bytes(data)
        if not self.waiting and self.try_send(data, addr):
            return
        self.waiting.append((data, addr))
        self.model.watch(self, SEND)

    def try_send(self, bytes data, addr):
        self.model.counters.sends += 1
        try:
            if addr is None:
                self.sock.send(data, socket.MSG_DONTWAIT)
            else:
                self.sock.sendto(data, socket.MSG_DONTWAIT, addr)
        except BlockingIOError:
            self.model.counters.blocked_sends += 1
            return False
        except OSError as error:
            self.protocol.error_received(error)
            return True
        self.model.counters.bytes_out += len(data)
        return True

    cdef int writable(self) except -1:
        while self.waiting and not self.closed:
            if not self.try_send(*self.waiting[0]):
                return 0
            self.waiting.popleft()
        if not self.closed:
            self.model.unwatch(self, SEND)
            if self.closing:
                self.force_close(None)
        return 0

    def close(self):
        """Ends once what is waiting is sent."""
        if not self.closing and not self.closed:
            self.closing = True
            self.model.unwatch(self, RECEIVE)
            if not self.waiting:
                self.force_close(None)

    def abort(self):
        """Ends now."""
        self.force_close(None)

    def is_closing(self):
        """True once it is ending."""
        return self.closed or self.closing

    def force_close(self, error):
        if self.closed:
            return
        self.closed = self.closing = True
        self.waiting.clear()
        if self.watched:
            self.model.unwatch(self, self.watched)
        self.loop.call_soon(self.call_connection_lost, error)

    def call_connection_lost(self, error):
        protocol, self.protocol = self.protocol, None
        try:
            protocol.connection_lost(error)
        finally:
            self.model.release(self)

    cdef int released(self) except -1:
        if self.sock is not None:
            self.sock.close()
            self.sock = None
            self.fd = -1
        return 0

    def get_extra_info(self, name, default=None):
        """``"socket"``, ``"sockname"`` or ``"peername"``."""
        if name == "socket":
            return self.sock
        if name in ("sockname", "peername") and self.sock is not None:
            try:
                return self.sock.getsockname() if name == "sockname" else self.sock.getpeername()
            except OSError:
                return default
        return default
