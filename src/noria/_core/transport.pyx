"""What the channels with an asyncio protocol share: closing, and the calls that go with it."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from libc.stdint cimport uint32_t, uint64_t

from noria._core.contract cimport CALL, Channel
from noria._core.recorder.events cimport RecordKind
from noria._core.recorder.record cimport Ring, identify_type, record, record_transfer
from noria._core.sys cimport iovec

import logging
import socket
import sys
from asyncio import trsock

log = logging.getLogger("noria")

# C variables: when the interpreter exits, it sets the globals of modules, also of builtins, to None
# before it finalizes the last transports. The method `detach` of socket.socket then fails, as it
# calls `super`; that of its base class, which is compiled, does not.
cdef object is_finalizing = sys.is_finalizing
cdef object detach_at_exit = socket.SocketType.detach

cdef enum:
    MAX_SENT_ENTRIES = 1024     # None entries at the front of `parts`, before they are removed


def pass_data(protocol, data):
    """Call data_received, which the protocol did not have when it was set."""
    protocol.data_received(data)


cdef class DirectProtocol:
    """A compiled protocol: it gets received bytes as a C pointer, without a Python call."""

    cdef int feed(self, const char *data, Py_ssize_t n) except -1:
        """Take `n` received bytes; the memory is valid during this call only."""
        raise NotImplementedError

    cdef int feed_bytes(self, bytes data) except -1:
        """Take received bytes that are an object already."""
        return self.feed(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))


cdef class StreamSet:
    """The open streams of a server or a client. Iteration goes over a snapshot."""

    def __cinit__(self):
        self.streams = set()

    def __len__(self):
        return len(self.streams)

    def __iter__(self):
        return iter(list(self.streams))

    cdef int add(self, TransportChannel stream) except -1:
        self.streams.add(stream)
        return 0

    cdef int discard(self, TransportChannel stream) except -1:
        """Remove a stream that has closed its descriptor."""
        self.streams.discard(stream)
        if self.on_descriptor_freed is not None:
            callback, self.on_descriptor_freed = self.on_descriptor_freed, None
            callback()
        return 0


cdef class TransportChannel(Channel):
    """A channel with a protocol, and the part of asyncio.BaseTransport that closes it.

    Subclasses implement `close`.
    """

    def abort(self):
        """Close now, without sending the unsent data."""
        self.force_close(None)

    def is_closing(self):
        """Whether the transport is closing or closed."""
        return self.closing != 0 or self.closed != 0

    def get_protocol(self):
        """The current protocol."""
        return self.protocol

    cdef int force_close(self, object error) except -1:
        """Stop sending and receiving; queue the call of connection_lost(error)."""
        if self.closed:
            return 0
        self.closed = self.closing = True
        self.error = error
        if isinstance(error, OSError):
            self.close_errno = error.errno or 0
        self.discard_unsent()
        if self.model.closed:
            # The queue is not read any more, and would keep the channel alive.
            self.drop_protocol()
            return self.model.release(self)
        if self.watched and self.socket_owns_fd:
            # The program may close or duplicate the descriptor.
            self.model.unwatch(self, self.watched)
        elif self.watched:
            self.model.unwatch_before_release(self)
        self.model.queue.put(self, CALL, CONNECTION_LOST, NULL)
        return 0

    cdef int call_connection_lost(self) except -1:
        cdef object protocol = self.protocol
        cdef object error = self.error
        if protocol is None:
            return 0
        self.drop_protocol()
        self.error = None
        try:
            protocol.connection_lost(error)
        finally:
            self.finish_close(error)
        return 0

    cdef int discard_unsent(self) except -1:
        """Drop the data that was not sent."""
        return 0

    def record_handshake(self, int what):
        """Record that a TLS handshake begins (0), is done (1) or has failed (2)."""
        self.note(RecordKind.TLS, what)

    cdef uint64_t record_protocol(self, Ring *ring) noexcept:
        return 0 if self.protocol is None else identify_type(ring, <PyObject *>self.protocol)

    cdef int note(self, int kind, uint64_t value) noexcept:
        """Record what happens to this channel, and which line of the program has caused it.

        The value of OPEN is 1 for datagrams.
        """
        cdef Ring *ring = NULL if self.model is None else self.model.recorder
        cdef uint64_t fd = <uint32_t>self.fd
        if ring == NULL:
            return 0
        if kind == RecordKind.OPEN:
            fd |= value << 32
            value = self.record_protocol(ring)
        elif kind == RecordKind.CLOSE:
            record_transfer(ring, kind, self.fd, -self.close_errno)
            return 0
        record(ring, kind, fd, value)
        if kind in (RecordKind.OPEN, RecordKind.PAUSE_READING, RecordKind.PAUSE_WRITING):
            ring.functions.record_caller(ring, self.fd, self.loop.base_frame)
        return 0

    cdef int drop_protocol(self) except -1:
        """Drop the references to the protocol."""
        self.protocol = None
        return 0

    cdef int finish_close(self, object error) except -1:
        """Release the descriptor; connection_lost was called with `error`."""
        return self.model.release(self)

    cdef bint handle_error(self, object error) except -1:
        """Close this transport after its protocol raised; other transports are not affected."""
        if self.protocol is None:
            return False
        log.error("%r raised: its transport is closed", self.protocol, exc_info=error)
        self.force_close(error)
        return True

    def get_extra_info(self, name, default=None):
        """``"socket"``, ``"sockname"`` or ``"peername"``, as asyncio's transports have them."""
        if self.extra is None:
            self.extra = {}
        if name in self.extra:
            return self.extra[name]
        if name not in ("socket", "sockname", "peername") or self.fd < 0:
            return default
        if "socket" not in self.extra:
            self.socket_owns_fd = True
            self.extra["socket"] = trsock.TransportSocket(socket.socket(fileno=self.fd))
        sock = self.extra["socket"]
        if name != "socket":
            try:
                self.extra[name] = sock.getsockname() if name == "sockname" else sock.getpeername()
            except OSError:
                self.extra[name] = None     # disconnected
        return self.extra[name]

    cdef int detach_socket(self) except -1:
        """Detach the Python socket of get_extra_info: the descriptor is closed by this class."""
        if self.socket_owns_fd:
            self.socket_owns_fd = False
            sock = self.extra["socket"]._sock
            if is_finalizing():
                detach_at_exit(sock)
            else:
                sock.detach()
        return 0


cdef tuple checked_limits(object high, object low):
    """The limits (high, low) of set_write_buffer_limits, with defaults for None."""
    if high is None:
        high = HIGH_WATER if low is None else 4 * low
    if low is None:
        low = high // 4
    if not high >= low >= 0:
        raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
    return high, low


cdef class WriteBuffer:
    """A stream's unsent data and its limits.

    It is made when the socket has not taken all data, or when the limits are changed, so that an
    idle connection keeps a pointer only.
    """

    def __cinit__(self):
        self.high = HIGH_WATER
        self.low = LOW_WATER

    cdef int append(self, bytes part) except -1:
        """Append unsent data, by reference."""
        if self.parts is None:
            self.parts = []
            self.first = self.offset = 0
        self.parts.append(part)
        return 0

    cdef int first_parts(self, iovec *found, int limit) except -1:
        """Store the memory of the first unsent parts; return their number."""
        cdef bytes part
        cdef int i
        cdef int count = <int>min(<Py_ssize_t>limit, len(self.parts) - self.first)
        for i in range(count):
            part = self.parts[self.first + i]
            found[i].iov_base = PyBytes_AS_STRING(part)
            found[i].iov_len = PyBytes_GET_SIZE(part)
        found[0].iov_base = <char *>found[0].iov_base + self.offset
        found[0].iov_len -= self.offset
        return count

    cdef int remove_sent(self, Py_ssize_t sent) except -1:
        """Remove the first `sent` bytes."""
        cdef Py_ssize_t size
        sent += self.offset
        while self.first < len(self.parts):
            size = PyBytes_GET_SIZE(<bytes>self.parts[self.first])
            if sent < size:
                break
            sent -= size
            self.parts[self.first] = None
            self.first += 1
        self.offset = sent
        if self.first == len(self.parts):
            self.parts = None
        elif self.first >= MAX_SENT_ENTRIES:
            del self.parts[:self.first]
            self.first = 0
        return 0
