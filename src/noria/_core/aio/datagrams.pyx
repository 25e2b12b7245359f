"""Datagram sockets of the asyncio loop.

A reply mostly goes to the sender of the last datagram: the tuple and the struct sockaddr of its
address are kept, so that neither is created again. Other addresses are converted by Python's socket
module, which supports all families.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.contextvars cimport PyContext_CopyCurrent, PyContext_Enter, PyContext_Exit
from libc.string cimport memcmp, memcpy

from noria._core.address cimport noria_address
from noria._core.aio.core cimport Core
from noria._core.contract cimport CALL, RECEIVE, Event
from noria._core.datagram cimport DatagramChannel
from noria._core.recorder.events cimport RecordKind
from noria._core.sys cimport (
    EAGAIN, EBADF, EINTR, MSG_DONTWAIT, MSG_NOSIGNAL, c_send, errno, sendto, sockaddr, ssize_t,
)
from noria._core.transport cimport HIGH_WATER, LOW_WATER, checked_limits

import os
from asyncio import constants
from asyncio.log import logger
from asyncio.trsock import TransportSocket

cdef enum:
    # result of a CALL event, beside that of TransportChannel
    STARTED = 2
    # sizeof(struct sockaddr_storage)
    MAX_ADDRESS_SIZE = 128
    # bytes that asyncio adds to the size of each datagram in the write buffer
    HEADER_SIZE = 8


cdef class DatagramSocket(DatagramChannel):
    """A bound or connected datagram socket; it owns the socket object.

    `from_caller`: the caller of a public method has the socket object, too, and may close it.
    `address`: the only address that it sends to, or None.
    """

    cdef Core core
    cdef bint from_caller
    cdef object context
    # None after connection_lost
    cdef readonly object transport
    cdef object address
    # done after connection_made
    cdef object waiter
    # the last sender's address, as a tuple and as a struct sockaddr
    cdef object last_sender
    cdef char raw_sender[MAX_ADDRESS_SIZE]
    cdef unsigned raw_sender_length
    # of the write buffer, in bytes
    cdef Py_ssize_t unsent_size, high, low
    cdef bint connected, protocol_paused
    cdef int writes_after_close

    def __init__(self, Core core, sock, protocol, address, waiter, make_transport,
                 bint from_caller):
        self.open(core, sock, protocol)
        self.core = core
        self.from_caller = from_caller
        self.context = PyContext_CopyCurrent()
        self.address = address
        self.waiter = waiter
        self.high = HIGH_WATER
        self.low = LOW_WATER
        self.extra = {"socket": TransportSocket(sock), "sockname": None, "peername": None}
        for name, method in (("sockname", sock.getsockname), ("peername", sock.getpeername)):
            try:
                self.extra[name] = method()
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
        if length != self.raw_sender_length or self.last_sender is None \
                or memcmp(self.raw_sender, address, length) != 0:
            self.last_sender = noria_address(address, length)
            if length > MAX_ADDRESS_SIZE:
                length = 0
            memcpy(self.raw_sender, address, length)
            self.raw_sender_length = length
        self.protocol.datagram_received(PyBytes_FromStringAndSize(data, n), self.last_sender)
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
        """Send one datagram, now or when the socket is writable.

        As asyncio.DatagramTransport.sendto.
        """
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
            # Until connection_lost it is sent, as in asyncio; it is dropped if the socket is full.
            if self.protocol is not None and self.sock is not None:
                self.try_send(data, addr)
            return
        if not self.unsent and self.try_send(data, addr):
            return
        data = bytes(data)
        self.keep_unsent(data, addr)
        self.unsent_size += len(data) + HEADER_SIZE
        if self.unsent_size > self.high and not self.protocol_paused:
            self.protocol_paused = True
            self.note(RecordKind.PAUSE_WRITING, self.unsent_size)
            self.core.notify_flow_control(self.protocol, self.transport, True)

    cdef bint try_send(self, object data, object addr) except -1:
        cdef Py_buffer view
        cdef ssize_t sent
        cdef int error
        if self.from_caller and self.sock.fileno() != self.fd:
            # The caller has closed it: the number may refer to another file.
            self.protocol.error_received(OSError(EBADF, os.strerror(EBADF)))
            return True
        self.model.counters.sends += 1
        if not self.connected and (addr is not self.last_sender or addr is None):
            try:
                sent = self.sock.sendto(data, MSG_DONTWAIT, addr)
            except (BlockingIOError, InterruptedError):
                self.model.count_send(self.fd, -EAGAIN)
                return False
            except OSError as failure:
                if failure.errno:
                    self.model.count_send(self.fd, -failure.errno)
                self.protocol.error_received(failure)
            else:
                self.model.count_send(self.fd, sent)
            return True
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        if self.connected:
            sent = c_send(self.fd, view.buf, view.len, MSG_DONTWAIT | MSG_NOSIGNAL)
        else:
            sent = sendto(self.fd, view.buf, view.len, MSG_DONTWAIT | MSG_NOSIGNAL,
                          <sockaddr *>self.raw_sender, self.raw_sender_length)
        error = errno
        PyBuffer_Release(&view)
        if self.model.count_send(self.fd, sent if sent >= 0 else -error) >= 0:
            return True
        if error == EAGAIN or error == EINTR:
            return False
        self.protocol.error_received(OSError(error, os.strerror(error)))
        return True

    cdef int unsent_removed(self, object data) except -1:
        self.unsent_size -= len(data) + HEADER_SIZE
        if self.protocol_paused and not self.unsent:
            self.protocol_paused = False
            self.note(RecordKind.RESUME_WRITING, 0)
            self.core.notify_flow_control(self.protocol, self.transport, False)
        return 0

    cdef int discard_unsent(self) except -1:
        self.unsent_size = 0
        return DatagramChannel.discard_unsent(self)

    # Closing.

    cdef int force_close(self, object error) except -1:
        if not self.closed:
            self.writes_after_close += 1
        return DatagramChannel.force_close(self, error)

    cdef int finish_close(self, object error) except -1:
        self.transport = None
        self.core.set_fd_transport(self.fd, None)
        self.model.release(self)
        # At once, as asyncio does: a request that is being cancelled has a reference to the file.
        self.released()
        return 0

    cdef int released(self) except -1:
        # The loop's table has a borrowed reference, and may be used after the loop was closed.
        if self.fd >= 0 and self.core.fd_transport(self.fd) is self:
            self.core.set_fd_transport(self.fd, None)
        return DatagramChannel.released(self)

    def close_unreferenced(self, transport):
        """Close the socket of a transport that has no references; call no protocol method."""
        if not self.closed:
            self.closed = self.closing = True
            self.protocol = None
            if self.core.closed:
                self.released()
            else:
                self.core.set_fd_transport(self.fd, None)
                self.model.release(self)

    # State.

    @property
    def connection_lost_called(self):
        """Whether connection_lost was called."""
        return self.protocol is None

    def get(self, name, default=None):
        """As get_extra_info: this object is the mapping `_extra` of its transport."""
        return self.get_extra_info(name, default)

    def set_protocol(self, protocol):
        """Set the protocol whose methods are called."""
        self.protocol = protocol

    def get_write_buffer_size(self):
        """The bytes of the unsent datagrams, plus 8 for each."""
        return self.unsent_size

    def set_write_buffer_limits(self, high=None, low=None):
        """Set the sizes, in bytes, above which and at which the flow control is called."""
        self.high, self.low = checked_limits(high, low)

    def get_write_buffer_limits(self):
        """(low, high), in bytes."""
        return (self.low, self.high)
