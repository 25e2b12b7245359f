"""Datagram sockets between a model and an asyncio.DatagramProtocol."""

from cpython.bytes cimport PyBytes_FromStringAndSize

from noria._core.address cimport noria_address
from noria._core.contract cimport CALL, RECEIVE, SEND, Event
from noria._core.loop cimport Loop
from noria._core.recorder.events cimport RecordKind
from noria._core.sys cimport EAGAIN
from noria._core.transport cimport TransportChannel

import os
import socket
from collections import deque


cdef class DatagramChannel(TransportChannel):
    """A bound or connected datagram socket. Subclasses implement `sendto` and `try_send`.

    Datagrams that the socket does not take are kept, and sent when it is writable.
    """

    cdef int open(self, Loop loop, object sock, object protocol) except -1:
        """Take over the socket object."""
        self.loop = loop
        self.model = loop.model
        self.sock = sock
        self.fd = sock.fileno()
        self.protocol = protocol
        self.unsent = deque()
        self.datagrams = True
        self.note(RecordKind.OPEN, 1)  # datagrams
        return 0

    cdef int handle(self, Event *event) except -1:
        if event.kind == CALL:
            return self.call_connection_lost()
        return self.model.deliver(self, event)

    # Receiving.

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

    # Sending.

    cdef bint try_send(self, object data, object address) except -1:
        """Send one datagram, or report its error to the protocol; false if the socket is full."""
        raise NotImplementedError

    cdef int keep_unsent(self, bytes data, object address) except -1:
        """Keep a datagram until the socket is writable."""
        self.unsent.append((data, address))
        self.unsent_bytes += len(data)
        self.note(RecordKind.UNSENT, self.unsent_bytes)
        self.model.watch(self, SEND)
        return 0

    cdef int unsent_removed(self, object data) except -1:
        """A kept datagram was sent, or has failed."""
        return 0

    cdef int writable(self) except -1:
        while self.unsent and not self.closed:
            data, address = self.unsent[0]
            if not self.try_send(data, address):
                return 0
            # The protocol's error_received may have closed the socket.
            if self.unsent:
                self.unsent.popleft()
                self.unsent_bytes -= len(data)
                self.unsent_removed(data)
        self.note(RecordKind.UNSENT, self.unsent_bytes)
        if not self.closed:
            self.model.unwatch(self, SEND)
            if self.closing:
                self.force_close(None)
        return 0

    cdef int discard_unsent(self) except -1:
        self.unsent.clear()
        self.unsent_bytes = 0
        return 0

    # Closing.

    def close(self):
        """Stop receiving; close the socket after the kept datagrams were sent."""
        if self.closing or self.closed:
            return
        self.closing = True
        if self.watched & RECEIVE:
            self.model.unwatch(self, RECEIVE)
        if not self.unsent:
            self.force_close(None)

    cdef int released(self) except -1:
        if self.sock is not None:
            self.note(RecordKind.CLOSE, 0)
            self.sock.close()
            self.sock = None
            self.fd = -1
        return 0


cdef class Datagrams(DatagramChannel):
    """The transport of Reactor.datagram: the methods of asyncio.DatagramTransport."""

    def __init__(self, Loop loop, sock, protocol):
        self.open(loop, sock, protocol)
        protocol.connection_made(self)
        self.model.watch(self, RECEIVE)

    def sendto(self, data, addr=None):
        """Send one datagram to `addr`, or to the connected peer if it is None; never wait."""
        if self.closed or self.closing:
            return
        data = bytes(data)
        if self.unsent or not self.try_send(data, addr):
            self.keep_unsent(data, addr)

    cdef bint try_send(self, object data, object address) except -1:
        self.model.counters.sends += 1
        try:
            if address is None:
                sent = self.sock.send(data, socket.MSG_DONTWAIT)
            else:
                sent = self.sock.sendto(data, socket.MSG_DONTWAIT, address)
        except BlockingIOError:
            self.model.count_send(self.fd, -EAGAIN)
            return False
        except OSError as error:
            if error.errno:
                self.model.count_send(self.fd, -error.errno)
            self.protocol.error_received(error)
            return True
        self.model.count_send(self.fd, sent)
        return True

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
