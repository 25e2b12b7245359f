"""A stream: a connected socket between a model and an asyncio protocol. This is the hot path.

From the bytes that a model received to `data_received`, and from `write` to the model's `send`, all
models run this same code. Writes are tried at once; only what finds no room is kept, by reference,
and sent when there is room. Semantics are those of asyncio's selector transport.
"""

cimport cython
from cpython.buffer cimport (
    PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport Py_DECREF
from libc.string cimport memcpy

from noria._core.contract cimport CALL, RECEIVE, SEND, Channel, Event, Model
from noria._core.loop cimport Loop
from noria._core.sys cimport (
    EAGAIN, IPPROTO_TCP, TCP_NODELAY, c_close, iovec, msghdr, setsockopt,
)

import asyncio
import logging
import os
import socket
from asyncio import trsock
from types import MethodType

log = logging.getLogger("noria")

cdef enum:
    HIGH_WATER = 64 * 1024      # asyncio's defaults
    LARGE_MESSAGE = 16 * 1024   # from here a copy costs more than a fresh object
    LARGE_BUFFER = 256 * 1024
    MAX_IOVECS = 64             # buffers in one sendmsg
    CONNECTION_LOST = 1                # results of the stream's own CALL events
    READING_RESUMED = 2
    EOF_REACHED = 4                   # 3 is Connection's

cdef object BufferedProtocol = asyncio.BufferedProtocol

cdef extern from "Python.h":
    int _PyBytes_Resize(Raw **bytes, Py_ssize_t size) except -1
    Raw *bytes_of_size "PyBytes_FromStringAndSize"(const char *data, Py_ssize_t size) except NULL


# A message to which nothing else holds a reference is written over by the next: its memory is warm,
# and neither malloc nor free has to be called. The test is a reference count of one, the stream's
# own, after data_received has returned; the cached hash is dropped. Without the GIL a count of one
# proves nothing: not there.
#
# From Python 3.14 on, the interpreter also has references that it does not count: LOAD_FAST_BORROW
# pushes a local variable onto the evaluation stack without an increment, and a Python function
# that is called from there gets its arguments the same way. They do not matter here:
# - An uncounted reference is valid because a counted one outlives it: a local variable of the same
#   frame or of a calling one. A local that is overwritten through f_locals (PEP 667) is kept in the
#   frame object (f_overwritten_fast_locals, pycore_frame.h). An uncounted reference to a message
#   thus implies a counted one besides the stream's, or is derived from the stream's own, which was
#   passed to data_received.
# - The call from here counts: _PyEval_Vector takes a new reference for each argument. A frame that
#   outlives the call (a suspended generator or coroutine, a frame object that a traceback or a
#   trace function keeps) was copied by _PyFrame_Copy (pycore_interpframe.h), which turns each local
#   and each entry of its stack into a counted reference (PyStackRef_MakeHeapSafe). A value that is
#   yielded, returned or sent is converted, too.
# - CPython warns of extensions that test the count of an object that they were passed by the
#   interpreter (PyUnstable_Object_IsUniqueReferencedTemporary): their reference may be borrowed
#   from a caller's. The stream made the object and holds a counted reference of its own.
# The tests in tests/core/test_messages_kept.py try each of these ways, with the JIT too.
cdef extern from *:
    """
    static inline int noria_alone(PyObject *bytes) {
    #ifdef Py_GIL_DISABLED
        return 0;
    #else
        return Py_REFCNT(bytes) == 1;
    #endif
    }
    #if defined(__GNUC__)
    #pragma GCC diagnostic push
    #pragma GCC diagnostic ignored "-Wdeprecated-declarations"
    #endif
    static inline void noria_rewrite(PyObject *bytes, const char *data, Py_ssize_t n) {
        PyBytesObject *self = (PyBytesObject *)bytes;
        memcpy(self->ob_sval, data, n);
        self->ob_sval[n] = 0;
        self->ob_shash = -1;
        Py_SET_SIZE(self, n);
    }
    #if defined(__GNUC__)
    #pragma GCC diagnostic pop
    #endif
    """
    bint alone "noria_alone"(object data)
    void rewrite "noria_rewrite"(object data, const char *source, Py_ssize_t n)


cdef inline Py_ssize_t expect(Py_ssize_t size_hint, Py_ssize_t n) noexcept:
    """How large the next message may be: as this one, and after a large one not at once small."""
    return n if n >= size_hint else (size_hint + n) >> 1


cdef class DirectProtocol:
    """A compiled protocol that takes bytes where they are."""

    cdef int feed(self, const char *data, Py_ssize_t n) except -1:
        raise NotImplementedError

    cdef int feed_bytes(self, bytes data) except -1:
        return self.feed(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))


cdef class StreamSet:
    """Streams that are open. `len()` counts them; iteration goes over a snapshot."""

    def __cinit__(self):
        self.streams = set()

    def __len__(self):
        return len(self.streams)

    def __iter__(self):
        return iter(list(self.streams))

    cdef int add(self, Stream stream) except -1:
        stream.group = self
        self.streams.add(stream)
        return 0

    cdef int discard(self, Stream stream) except -1:
        stream.group = None
        self.streams.discard(stream)
        if self.on_descriptor_freed is not None:
            resume, self.on_descriptor_freed = self.on_descriptor_freed, None
            resume()
        return 0


cdef class Stream(Channel):
    """A connection as its protocol sees it: the methods of asyncio.Transport."""

    cdef int open(self, Loop loop, int fd, object protocol, StreamSet group, bint tcp) except -1:
        """Takes over `fd`; `start` then tells the protocol."""
        cdef int one = 1
        self.fd = fd
        self.loop = loop
        self.model = loop.model
        self.tcp = tcp
        self.high = HIGH_WATER
        self.low = HIGH_WATER // 4
        self.use_protocol(protocol)
        if tcp:
            self.model.counters.controls += 1
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))
        if group is not None:
            group.add(self)
        return 0

    cdef int start(self) except -1:
        if self.group.on_open is not None:
            self.group.on_open(self)
        self.protocol.connection_made(self)
        if not self.paused and not self.closing and not self.closed:
            self.model.watch(self, RECEIVE)
        return 0

    cdef int use_protocol(self, object protocol) except -1:
        self.protocol = protocol
        self.direct_protocol = None
        if isinstance(protocol, DirectProtocol) and (<DirectProtocol>protocol).enabled:
            self.direct_protocol = <DirectProtocol>protocol
        self.buffered = self.direct_protocol is not None or isinstance(protocol, BufferedProtocol)
        # Looked up once. The class's function is the same for all its protocols, so it stays in the
        # cache where a bound method for each would not.
        method = None if self.buffered else protocol.data_received
        self.pass_protocol = type(method) is MethodType and method.__self__ is protocol
        self.data_received = method.__func__ if self.pass_protocol else method
        return 0

    @cython.final
    cdef int call_data_received(self, bytes data) except -1:
        if self.pass_protocol:
            self.data_received(self.protocol, data)
        else:
            self.data_received(data)
        return 0

    # Receiving.

    cdef bint expects_large(self) noexcept:
        return self.size_hint >= LARGE_MESSAGE and (
            not self.buffered
            or (self.direct_protocol is not None and self.direct_protocol.wants_objects))

    cdef bint reserve(self, char **place, Py_ssize_t *size) except -1:
        # A large message is received straight into the object that the protocol will get.
        if not self.expects_large():
            return False
        self.incoming = bytes_of_size(NULL, LARGE_BUFFER)
        place[0] = PyBytes_AS_STRING(<bytes>self.incoming)
        size[0] = LARGE_BUFFER
        return True

    cdef int filled(self, Py_ssize_t n) except -1:
        cdef Raw *raw = self.incoming
        cdef bytes data
        self.incoming = NULL
        if n <= 0:
            Py_DECREF(<object>raw)
            return self.handle_eof() if n == 0 else 0
        self.size_hint = <unsigned>expect(self.size_hint, n)
        self.received_turn = <unsigned>self.loop.turns
        if n < LARGE_BUFFER:
            _PyBytes_Resize(&raw, n)
        data = <bytes>raw
        Py_DECREF(data)
        if self.closed or self.closing:
            return 0
        if self.paused:
            self.keep_paused_data(data)
        else:
            self.deliver_data(data)
        return 0

    cdef int deliver_data(self, bytes data) except -1:
        """Pass `data` to the protocol, in the way that its kind wants it."""
        if self.direct_protocol is not None:
            self.direct_protocol.feed_bytes(data)
        elif self.buffered:
            self.fill_protocol_buffers(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        else:
            self.call_data_received(data)
        return 0

    cdef int received(self, const char *data, Py_ssize_t n) except -1:
        cdef bytes message
        cdef Model model
        if n == 0:
            return self.handle_eof()
        if self.closed or self.closing:
            return 0
        self.size_hint = <unsigned>expect(self.size_hint, n)
        self.received_turn = <unsigned>self.loop.turns
        if self.paused:
            self.keep_paused_data(PyBytes_FromStringAndSize(data, n))
        elif self.buffered:
            self.fill_protocol_buffers(data, n)
        else:
            model = self.model
            message = <bytes>model.spare_message
            model.spare_message = None  # a handler may run the model again, or raise
            if message is not None and alone(message) and n <= model.spare_size < 2 * n:
                rewrite(message, data, n)
            else:
                message = PyBytes_FromStringAndSize(data, n)
                model.spare_size = n
            if self.pass_protocol:
                self.data_received(self.protocol, message)
            else:
                self.data_received(message)
            if alone(message):
                model.spare_message = message
        return 0

    cdef int fill_protocol_buffers(self, const char *data, Py_ssize_t n) except -1:
        """Copy `data` into the buffers of a BufferedProtocol, as many as it takes.

        A callback may pause, close or replace the protocol: what is left of `data` then waits, is
        discarded, or goes to the new protocol. `data` must not be memory that another receive
        could write to meanwhile.
        """
        cdef Py_buffer view
        cdef Py_ssize_t part
        if self.direct_protocol is not None:
            return self.direct_protocol.feed(data, n)
        while n and not self.closed and not self.closing:
            if self.paused & PAUSED:
                if self.paused_data is None:
                    self.paused_data = []
                self.paused_data.insert(0, PyBytes_FromStringAndSize(data, n))
                return 0
            if not self.buffered or self.direct_protocol is not None:
                return self.deliver_data(PyBytes_FromStringAndSize(data, n))
            buffer = self.protocol.get_buffer(n)
            PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
            part = min(n, view.len)
            if part:
                memcpy(view.buf, data, part)
            PyBuffer_Release(&view)
            if not part:
                raise RuntimeError("get_buffer() returned an empty buffer")
            data += part
            n -= part
            self.protocol.buffer_updated(part)
        return 0

    cdef int keep_paused_data(self, bytes data) except -1:
        """Keep data that arrived while reading was paused, behind what is kept already."""
        if self.paused_data is None:
            self.paused_data = []
        self.paused_data.append(data)
        return 0

    cdef int handle_eof(self) except -1:
        """The peer has sent all it will."""
        if self.paused:
            self.keep_paused_data(b"")
            return 0
        if self.received_turn == <unsigned>self.loop.turns and not self.eof_delivered:
            # Never in the turn of the last data: asyncio receives once a turn, and who waits for
            # that data may look at the connection in the next turns.
            self.model.unwatch(self, RECEIVE)
            self.model.queue.put(self, CALL, EOF_REACHED, NULL)
            return 0
        return self.deliver_eof()

    cdef int deliver_eof(self) except -1:
        """Tell the protocol of the end, once."""
        if self.eof_delivered or self.closed:
            return 0
        self.eof_delivered = True
        self.model.unwatch(self, RECEIVE)
        if self.closing:
            return 0
        if not self.protocol.eof_received():
            self.close()
        return 0

    cdef int failed(self, int error) except -1:
        return self.force_close(OSError(error, os.strerror(error)))

    cdef bint handle_error(self, object error) except -1:
        """A handler of the protocol raised: its own connection ends, the others go on."""
        if self.closed and self.protocol is None:
            return False
        log.error("%r raised: its connection is closed", self.protocol, exc_info=error)
        self.force_close(error)
        return True

    def pause_reading(self):
        """Stop calls of data_received; data that still arrives is held until resume_reading."""
        if self.paused & PAUSED or self.closing or self.closed:
            return
        self.paused |= PAUSED
        self.model.unwatch(self, RECEIVE)

    def resume_reading(self):
        """Undo pause_reading."""
        if not self.paused & PAUSED or self.closing or self.closed:
            return
        self.paused &= ~PAUSED
        if self.paused_data is not None:
            # Held data is delivered first, and from the queue: never from within the caller.
            self.paused |= DELIVERING_PAUSED
            self.model.queue.put(self, CALL, READING_RESUMED, NULL)
        elif not self.eof_delivered:
            self.model.watch(self, RECEIVE)

    def detach_reading(self):
        """Pauses reading so that, until resume_reading, another may receive from the descriptor.

        False, and nothing has changed, where bytes may be on their way to here; True later perhaps.
        """
        if self.eof_delivered or self.closing or self.closed or self.paused_data is not None \
                or self.model.recv_in_flight(self):
            return False
        self.pause_reading()
        return True

    cdef int deliver_paused_data(self) except -1:
        """Deliver held data until there is none, or until the protocol pauses or closes."""
        cdef bytes data
        # HOLDING stays set meanwhile, so that what a model receives now queues behind.
        while self.paused_data and not (self.paused & PAUSED or self.closing or self.closed):
            data = self.paused_data.pop(0)
            try:
                if data:
                    self.deliver_data(data)
                else:
                    self.deliver_eof()
            except BaseException:
                # KeyboardInterrupt, say, after which the loop may run again: so does this.
                self.model.queue.put(self, CALL, READING_RESUMED, NULL)
                raise
        if self.closing or self.closed:
            return 0
        if not self.paused_data:
            self.paused_data = None
        self.paused &= PAUSED
        if self.paused:
            return 0
        if not self.eof_delivered:
            self.model.watch(self, RECEIVE)
        return 0

    def is_reading(self):
        """True if data_received may be called."""
        return not (self.paused & PAUSED or self.closing or self.closed)

    # Sending.

    cpdef write(self, data):
        """Sends at once what there is room for and keeps the rest; never waits."""
        cdef Py_buffer view
        cdef Py_ssize_t sent
        if type(data) is bytes:
            sent = self.send_now(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
            if sent >= 0:
                self.keep_unsent(data, sent)
            return
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError("data argument must be a bytes-like object, not "
                            f"{type(data).__name__!r}")
        if type(data) is memoryview and not data.c_contiguous:
            data = bytes(data)
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            sent = self.send_now(<const char *>view.buf, view.len)
            if sent >= 0:
                # The caller may change its buffer afterwards: the bytes of now are kept.
                self.keep_unsent(PyBytes_FromStringAndSize(<const char *>view.buf + sent,
                                                           view.len - sent), 0)
        finally:
            PyBuffer_Release(&view)

    @cython.final
    cdef Py_ssize_t send_now(self, const char *data, Py_ssize_t n) except? -2:
        """Sends what there is room for; from where on the rest is to be kept, or -1 for no rest."""
        cdef Py_ssize_t sent
        if self.write_state:
            self.raise_unwritable("write")
        if n == 0:
            return -1
        if self.closed:
            self.count_lost_write()
            return -1
        if self.unsent_size:
            return 0
        sent = self.model.send(self, data, n)
        if sent == n:
            return -1
        if sent >= 0:
            return sent
        if sent == -EAGAIN:
            return 0
        self.force_close(OSError(-sent, os.strerror(-sent)))
        return -1

    cdef int raise_unwritable(self, str method) except -1:
        if self.write_state == SENDFILE:
            raise RuntimeError(f"unable to {method}; sendfile is in progress")
        raise RuntimeError(f"Cannot call {method}() after write_eof()")

    def writelines(self, list_of_data):
        """Sends several buffers, in one system call where there is room."""
        cdef bint idle = self.unsent_size == 0
        parts = [bytes_of(part) for part in list_of_data]
        if self.write_state:
            self.raise_unwritable("writelines")
        if not any(parts):
            return
        if self.closed:
            self.count_lost_write()
            return
        for part in parts:
            if part:
                self.append_outgoing(part, 0)
        if idle:
            self.flush()
        if self.unsent_size and not self.closed:
            self.watch_writable()

    cdef int append_outgoing(self, bytes data, Py_ssize_t offset) except -1:
        if self.outgoing is None:
            self.outgoing = []
        if self.unsent_size == 0:
            self.offset = offset
        elif offset:
            raise AssertionError("only the first buffer can be sent in part")
        self.outgoing.append(data)
        self.unsent_size += len(data) - offset
        return 0

    cdef int watch_writable(self) except -1:
        self.model.watch(self, SEND)
        if self.unsent_size > self.high and not self.protocol_paused:
            self.protocol_paused = True
            self.notify_flow_control()

    cdef int notify_flow_control(self) except -1:
        """Tells the protocol whether it may write."""
        if self.protocol_paused:
            self.protocol.pause_writing()
        else:
            self.protocol.resume_writing()
        return 0

    cdef int count_lost_write(self) except -1:
        if self.writes_after_close >= 5:
            log.warning("socket.send() raised exception.")
        if self.writes_after_close < 255:
            self.writes_after_close += 1

    cdef int keep_unsent(self, bytes data, Py_ssize_t offset) except -1:
        self.append_outgoing(data, offset)
        self.watch_writable()
        return 0

    cdef int flush(self) except -1:
        """Sends what is kept, until done or there is no more room."""
        cdef iovec parts[MAX_IOVECS]
        cdef msghdr message
        cdef bytes part
        cdef Py_ssize_t i, count, sent
        while self.unsent_size:
            count = min(<Py_ssize_t>MAX_IOVECS, len(self.outgoing) - self.first)
            for i in range(count):
                part = self.outgoing[self.first + i]
                parts[i].iov_base = PyBytes_AS_STRING(part)
                parts[i].iov_len = PyBytes_GET_SIZE(part)
            parts[0].iov_base = <char *>parts[0].iov_base + self.offset
            parts[0].iov_len -= self.offset
            if count == 1:
                sent = self.model.send(self, <char *>parts[0].iov_base, parts[0].iov_len)
            else:
                message.msg_name = NULL
                message.msg_namelen = 0
                message.msg_iov = parts
                message.msg_iovlen = count
                message.msg_control = NULL
                message.msg_controllen = 0
                message.msg_flags = 0
                sent = self.model.send_many(self, &message)
            if sent == -EAGAIN:
                return 0
            if sent < 0:
                return self.force_close(OSError(-sent, os.strerror(-sent)))
            self.count_sent(sent)
        return 0

    cdef int count_sent(self, Py_ssize_t sent) except -1:
        """So much of what is kept is sent."""
        cdef Py_ssize_t size
        self.unsent_size -= sent
        sent += self.offset
        while self.first < len(self.outgoing):
            size = PyBytes_GET_SIZE(<bytes>self.outgoing[self.first])
            if sent < size:
                break
            sent -= size
            self.outgoing[self.first] = None
            self.first += 1
        self.offset = sent
        if self.first == len(self.outgoing):
            self.outgoing = None
            self.first = 0
        elif self.first >= 1024:
            del self.outgoing[:self.first]
            self.first = 0
        return 0

    cdef int flush_at_turn_end(self) except -1:
        """For one that asked its loop to be told."""
        return 0

    cdef int writable(self) except -1:
        self.flush()
        if self.closed:
            return 0
        if self.protocol_paused and self.unsent_size <= self.low:
            self.protocol_paused = False
            self.notify_flow_control()
        if self.unsent_size or self.closed:
            return 0
        self.model.unwatch(self, SEND)
        if self.closing:
            self.force_close(None)
        elif self.write_state == EOF_WRITTEN:
            self.model.kernel_end_sending(self.fd)
        return 0

    def write_eof(self):
        """Ends the sending side once all is sent; receiving goes on."""
        if self.closing or self.write_state or self.closed:
            return
        self.write_state = EOF_WRITTEN
        if not self.unsent_size:
            self.model.kernel_end_sending(self.fd)

    def can_write_eof(self):
        """True."""
        return True

    def set_write_buffer_limits(self, high=None, low=None):
        """Bytes kept above which pause_writing, and at or below which resume_writing, is called."""
        if high is None:
            high = HIGH_WATER if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self.high, self.low = high, low
        if self.unsent_size > self.high and not self.protocol_paused and self.protocol is not None:
            self.protocol_paused = True
            self.notify_flow_control()

    def get_write_buffer_limits(self):
        """(low, high), in bytes."""
        return (self.low, self.high)

    def get_write_buffer_size(self):
        """Bytes kept because there was no room to send them."""
        return self.unsent_size

    # Ending.

    def close(self):
        """Stops receiving, sends what is kept, then ends the connection."""
        if self.closing or self.closed:
            return
        self.closing = True
        self.model.unwatch(self, RECEIVE)
        if not self.unsent_size:
            self.force_close(None)

    def abort(self):
        """Ends the connection now; what is kept is not sent."""
        self.force_close(None)

    def is_closing(self):
        """True once it is ending."""
        return self.closing != 0 or self.closed != 0

    cdef int force_close(self, object error) except -1:
        """Nothing more is sent or received; connection_lost is called from the queue."""
        if self.closed:
            return 0
        self.closed = self.closing = True
        self.error = error
        self.outgoing = None
        self.paused_data = None
        self.unsent_size = 0
        if self.model.closed:
            # Nobody takes events any more; a queue that held this one would hold it for ever.
            self.protocol = self.data_received = self.direct_protocol = None
            return self.model.release(self)
        if self.watched:
            self.model.unwatch(self, self.watched)
        self.model.queue.put(self, CALL, CONNECTION_LOST, NULL)
        return 0

    cdef int handle(self, Event *event) except -1:
        if event.kind != CALL:
            return self.model.deliver(self, event)
        if event.result == READING_RESUMED:
            return self.deliver_paused_data()
        if event.result == EOF_REACHED:
            if self.closed:
                return 0
            return self.keep_paused_data(b"") if self.paused else self.deliver_eof()
        return self.call_connection_lost()

    cdef int call_connection_lost(self) except -1:
        cdef object protocol = self.protocol
        cdef object error = self.error
        cdef StreamSet group = self.group
        if protocol is None:
            return 0
        self.protocol = self.data_received = self.direct_protocol = None
        self.error = None
        try:
            protocol.connection_lost(error)
        finally:
            if group is not None and group.on_close is not None:
                group.on_close(self, error)
            self.detach_socket()
            self.model.release(self)
        return 0

    cdef int detach_socket(self) except -1:
        """The Python socket, if one was made, is closed for its users: the descriptor is ours."""
        if self.socket_owns_fd:
            self.socket_owns_fd = False
            self.extra["socket"]._sock.detach()
        return 0

    cdef int released(self) except -1:
        cdef int fd = self.fd
        cdef StreamSet group = self.group  # which may live by this stream alone
        if fd < 0:
            return 0
        self.detach_socket()
        self.fd = -1
        self.model.kernel_close(fd)
        if group is not None:
            group.discard(self)
        return 0

    def __dealloc__(self):
        if self.incoming != NULL:
            Py_DECREF(<object>self.incoming)
        if self.fd >= 0 and not self.socket_owns_fd:
            c_close(self.fd)
            self.fd = -1

    # What it tells of itself.

    def set_protocol(self, protocol):
        """What is called from now on."""
        self.use_protocol(protocol)

    def get_protocol(self):
        """What is called."""
        return self.protocol

    def get_extra_info(self, name, default=None):
        """``"socket"``, ``"sockname"`` or ``"peername"``, as asyncio gives them."""
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
                self.extra[name] = None     # gone already
        return self.extra[name]

    def __repr__(self):
        state = "closed" if self.fd < 0 else "closing" if self.is_closing() else "open"
        return f"<noria Stream fd={self.fd} {state}>"


cdef bytes bytes_of(data):
    """A copy that the caller cannot change; bytes themselves need none."""
    if type(data) is bytes:
        return data
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError("data argument must be a bytes-like object, not "
                        f"{type(data).__name__!r}")
    return bytes(data)


def open_stream(Loop loop, int fd, protocol, StreamSet group, bint tcp):
    """A stream on a connected socket, whose descriptor it takes over; the protocol is told."""
    cdef Stream stream = Stream.__new__(Stream)
    stream.open(loop, fd, protocol, group, tcp)
    try:
        stream.start()
    except Exception as error:
        stream.handle_error(error)
    return stream
