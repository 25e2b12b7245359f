"""A datagram socket as asyncio has it.

A reply mostly goes to the address that the last datagram came from: that one's tuple and its raw
form are remembered, so that neither is made anew. Other addresses go through the socket module,
which knows all their forms.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.contextvars cimport PyContext_CopyCurrent, PyContext_Enter, PyContext_Exit
from libc.string cimport memcmp, memcpy

from noria._core.address cimport noria_address
from noria._core.aio.core cimport Core
from noria._core.contract cimport CALL, RECEIVE, SEND, Channel, Event
from noria._core.sys cimport (
    EAGAIN, EBADF, EINTR, MSG_DONTWAIT, MSG_NOSIGNAL, c_send, errno, sendto, sockaddr, ssize_t,
)

import os
from asyncio import constants
from asyncio.log import logger
from asyncio.trsock import TransportSocket
from collections import deque

cdef enum:
    STARTED = 1
    LOST = 2
    ADDRESS_SIZE = 128      # struct sockaddr_storage
    HEADER = 8              # asyncio counts so much for each that waits


cdef class DatagramSocket(Channel):
    """A bound or connected datagram socket, which stays a Python socket."""

    cdef Core core
    cdef object sock
    cdef bint from_caller       # others hold the socket object too, and may close it
    cdef object protocol
    cdef object context
    cdef readonly object transport  # what the protocol knows; None after connection_lost
    cdef object address         # to which alone it sends, if not None
    cdef object waiter
    cdef object waiting         # (bytes, address) that found no room
    cdef object error
    cdef object last            # the tuple of the last sender
    cdef char raw[ADDRESS_SIZE]
    cdef unsigned raw_length
    cdef dict extra
    cdef Py_ssize_t size, high, low
    cdef bint connected, paused, protocol_paused, closing, closed
    cdef int writes_after_close

    def __init__(self, Core core, sock, protocol, address, waiter, make_transport,
                 bint from_caller):
        self.core = core
        self.model = core.model
        self.sock = sock
        self.from_caller = from_caller
        self.fd = sock.fileno()
        self.protocol = protocol
        self.context = PyContext_CopyCurrent()
        self.address = address
        self.waiter = waiter
        self.waiting = deque()
        self.datagrams = True
        self.high = 64 * 1024
        self.low = 16 * 1024
        self.extra = {"socket": TransportSocket(sock), "sockname": None, "peername": None}
        for name, ask in (("sockname", sock.getsockname), ("peername", sock.getpeername)):
            try:
                self.extra[name] = ask()
            except OSError:
                pass
        self.connected = self.extra["peername"] is not None
        self.transport = make_transport(self)
        core.set_fd_transport(self.fd, self)
        self.model.queue.put(self, CALL, STARTED, NULL)

    cdef int handle(self, Event *event) except -1:
        cdef object context = self.context
        PyContext_Enter(context)
        try:
            if event.kind != CALL:
                if self.from_caller and self.sock is not None and self.sock.fileno() != self.fd:
                    self.force_close(OSError(EBADF, os.strerror(EBADF)))
                self.model.deliver(self, event)
            elif event.result == STARTED:
                self.call_connection_made()
            else:
                self.call_connection_lost()
        finally:
            PyContext_Exit(context)
        return 0

    cdef int call_connection_made(self) except -1:
        self.core.connect_protocol(self.protocol, self.transport)
        if not self.closing and not self.closed:
            self.model.watch(self, RECEIVE)
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)
        self.waiter = None
        return 0

    # Receiving.

    cdef int datagram_received(self, const char *data, Py_ssize_t n, void *address,
                               unsigned length) except -1:
        if self.closed:
            return 0
        if length != self.raw_length or self.last is None \
                or memcmp(self.raw, address, length) != 0:
            self.last = noria_address(address, length)
            if length > ADDRESS_SIZE:
                length = 0
            memcpy(self.raw, address, length)
            self.raw_length = length
        self.protocol.datagram_received(PyBytes_FromStringAndSize(data, n), self.last)
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
        if not isinstance(error, OSError):
            self.core.report_exception("Fatal error: a callback of the protocol failed.", error,
                                       {"transport": self.transport, "protocol": self.protocol})
        self.force_close(error)
        return True

    # Sending.

    def sendto(self, data, addr=None):
        """Sends one datagram, now or when there is room. As asyncio.DatagramTransport.sendto."""
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError("data argument must be a bytes-like object, "
                            f"not {type(data).__name__!r}")
        if self.address is not None:
            if addr is not None and addr != self.address:
                raise ValueError(f"Invalid address: must be None or {self.address}")
            addr = self.address
            if self.writes_after_close:
                if self.writes_after_close >= constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES:
                    logger.warning("socket.send() raised exception.")
                self.writes_after_close += 1
                return
        if self.closed:
            # As in asyncio, until connection_lost; what finds no room is dropped.
            if self.protocol is not None and self.sock is not None:
                self.try_send(data, addr)
            return
        if not self.waiting and self.try_send(data, addr):
            return
        data = bytes(data)
        self.waiting.append((data, addr))
        self.size += len(data) + HEADER
        self.model.watch(self, SEND)
        if self.size > self.high and not self.protocol_paused:
            self.protocol_paused = True
            self.core.notify_flow_control(self.protocol, self.transport, True)

    cdef bint try_send(self, object data, object addr) except -1:
        """Whether it is done with, well or badly; False if there is no room."""
        cdef Py_buffer view
        cdef ssize_t sent
        cdef int error
        if self.from_caller and self.sock.fileno() != self.fd:
            # Closed by the caller: the number may belong to another file by now.
            self.protocol.error_received(OSError(EBADF, os.strerror(EBADF)))
            return True
        self.model.counters.sends += 1
        if not self.connected and (addr is not self.last or addr is None):
            try:
                self.sock.sendto(data, MSG_DONTWAIT, addr)
            except (BlockingIOError, InterruptedError):
                self.model.counters.blocked_sends += 1
                return False
            except OSError as failure:
                self.protocol.error_received(failure)
            return True
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        if self.connected:
            sent = c_send(self.fd, view.buf, view.len, MSG_DONTWAIT | MSG_NOSIGNAL)
        else:
            sent = sendto(self.fd, view.buf, view.len, MSG_DONTWAIT | MSG_NOSIGNAL,
                          <sockaddr *>self.raw, self.raw_length)
        error = errno
        PyBuffer_Release(&view)
        if sent >= 0:
            self.model.counters.bytes_out += sent
            return True
        if error == EAGAIN or error == EINTR:
            self.model.counters.blocked_sends += 1
            return False
        self.protocol.error_received(OSError(error, os.strerror(error)))
        return True

    cdef int writable(self) except -1:
        while self.waiting and not self.closed:
            data, addr = self.waiting[0]
            if not self.try_send(data, addr):
                return 0
            if self.waiting:
                self.waiting.popleft()
                self.size -= len(data) + HEADER
        if self.closed:
            return 0
        self.model.unwatch(self, SEND)
        if self.protocol_paused and self.size <= self.low:
            self.protocol_paused = False
            self.core.notify_flow_control(self.protocol, self.transport, False)
        if self.closing and not self.waiting:
            self.force_close(None)
        return 0

    # Ending.

    def close(self):
        """Ends once what is waiting is sent."""
        if self.closing or self.closed:
            return
        self.closing = True
        if self.watched & RECEIVE:
            self.model.unwatch(self, RECEIVE)
        if not self.waiting:
            self.force_close(None)

    def abort(self):
        """Ends now."""
        self.force_close(None)

    def is_closing(self):
        """True once it is ending."""
        return self.closing or self.closed

    cdef int force_close(self, object error) except -1:
        if self.closed:
            return 0
        self.closed = self.closing = True
        self.writes_after_close += 1
        self.error = error
        self.waiting.clear()
        self.size = 0
        if self.model.closed:
            self.protocol = None
            return self.released()
        if self.watched:
            self.model.unwatch(self, self.watched)
        self.model.queue.put(self, CALL, LOST, NULL)
        return 0

    cdef int call_connection_lost(self) except -1:
        protocol, self.protocol = self.protocol, None
        error, self.error = self.error, None
        if protocol is None:
            return 0
        try:
            protocol.connection_lost(error)
        finally:
            self.transport = None
            self.core.set_fd_transport(self.fd, None)
            self.model.release(self)
            # At once, as asyncio does: a request that is being cancelled holds the file itself.
            self.released()
        return 0

    cdef int released(self) except -1:
        if self.sock is not None:
            self.sock.close()
            self.sock = None
            self.fd = -1
        return 0

    def close_unreferenced(self, transport):
        """Ends without a word, as nobody holds the transport any more."""
        if not self.closed:
            self.closed = self.closing = True
            self.protocol = None
            if self.core.closed:
                self.released()
            else:
                self.core.set_fd_transport(self.fd, None)
                self.model.release(self)

    # What it tells of itself.

    @property
    def connection_lost_called(self):
        """Whether connection_lost was called."""
        return self.protocol is None

    def get_extra_info(self, name, default=None):
        """``"socket"``, ``"sockname"`` and ``"peername"``."""
        return self.extra.get(name, default)

    def get(self, name, default=None):
        """As get_extra_info: it stands for the dict `_extra` of asyncio's transports."""
        return self.extra.get(name, default)

    def set_protocol(self, protocol):
        """What is called from now on."""
        self.protocol = protocol

    def get_protocol(self):
        """What is called."""
        return self.protocol

    def get_write_buffer_size(self):
        """Bytes that wait for room, and 8 for each datagram."""
        return self.size

    def set_write_buffer_limits(self, high=None, low=None):
        """Bytes that may wait before pause_writing is called, and for resume_writing."""
        if high is None:
            high = 64 * 1024 if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self.high, self.low = high, low

    def get_write_buffer_limits(self):
        """(low, high), in bytes."""
        return (self.low, self.high)
