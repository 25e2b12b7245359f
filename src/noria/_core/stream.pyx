"""A stream: a connected socket between a model and an asyncio protocol. This is the hot path.

All models run this code. A write is tried immediately; data that the kernel does not take is kept
by reference and sent when the socket is writable, as asyncio's selector transport does.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF
from libc.string cimport memcpy, memset

from noria._core.callbacks cimport call_function
from noria._core.contract cimport CALL, RECEIVE, SEND, Event, Model
from noria._core.loop cimport Loop
from noria._core.message cimport (
    Raw, bytes_of, expect, keep_spare, make_message, new_bytes, resize_bytes,
)
from noria._core.recorder.events cimport RecordKind
from noria._core.sys cimport EAGAIN, IPPROTO_TCP, TCP_NODELAY, c_close, iovec, msghdr, setsockopt
from noria._core.transport cimport (
    HIGH_WATER, LOW_WATER, DirectProtocol, StreamSet, TransportChannel, WriteBuffer,
    checked_limits,
)

import asyncio
import logging
import os
from functools import partial
from types import MethodType

from noria._core.transport import pass_data

log = logging.getLogger("noria")

cdef enum:
    LARGE_MESSAGE = 16 * 1024   # bytes; from here on, a copy costs more than a new object
    LARGE_BUFFER = 256 * 1024   # bytes that are received at once into the object for the protocol
    MAX_IOVECS = 64             # buffers in one sendmsg
    LOGGED_LOST_WRITES = 5      # writes after the connection was lost, before they are logged

cdef object BufferedProtocol = asyncio.BufferedProtocol


cdef class Stream(TransportChannel):
    """A connection, with the methods of asyncio.Transport."""

    cdef int open(self, Loop loop, int fd, object protocol, StreamSet group, bint tcp) except -1:
        """Take over the connected socket `fd`; `start` then calls the protocol."""
        cdef int one = 1
        self.fd = fd
        self.loop = loop
        self.model = loop.model
        self.use_protocol(protocol)
        self.note(RecordKind.OPEN, 0)
        if tcp:
            self.model.counters.controls += 1
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))
        if group is not None:
            self.group = group
            group.add(self)
        return 0

    cdef int start(self) except -1:
        """Call connection_made, then watch for data."""
        if self.group.on_open is not None:
            self.group.on_open(self)
        self.protocol.connection_made(self)
        if not self.paused and not self.closing and not self.closed:
            self.model.watch(self, RECEIVE)
        return 0

    cdef int use_protocol(self, object protocol) except -1:
        """Set the protocol, and look up the method that receives data."""
        cdef object method = None
        cdef bint direct = isinstance(protocol, DirectProtocol) \
            and (<DirectProtocol>protocol).enabled
        cdef bint buffered = direct or isinstance(protocol, BufferedProtocol)
        if not buffered:
            method = getattr(protocol, "data_received", None)
            if method is None:
                if protocol is None:
                    raise TypeError("the protocol is None")
                # An asyncio.BaseProtocol, which may write.
                method = partial(pass_data, protocol)
        # Nothing has changed if the above has raised.
        self.protocol = protocol
        self.direct = direct
        self.buffered = buffered
        # The class's function is the same object for all protocols of the class, so it stays in the
        # CPU's cache; a bound method of each protocol would not.
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
            or (self.direct and (<DirectProtocol>self.protocol).wants_objects))

    cdef bint reserve(self, char **place, Py_ssize_t *size) except -1:
        # A large message is received directly into the object that the protocol gets.
        if not self.expects_large():
            return False
        self.incoming = new_bytes(NULL, LARGE_BUFFER)
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
            resize_bytes(&raw, n)
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
        """Pass `data` to the protocol, in the way that fits its kind."""
        if self.direct:
            (<DirectProtocol>self.protocol).feed_bytes(data)
        elif self.buffered:
            self.fill_protocol_buffers(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        else:
            self.call_data_received(data)
        return 0

    cdef int received(self, const char *data, Py_ssize_t n) except -1:
        cdef bytes message
        cdef Model model
        cdef Py_ssize_t capacity
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
            message = make_message(&model.spare_messages, data, n, &capacity)
            if self.pass_protocol:
                call_function(<PyObject *>self.data_received, <PyObject *>self.protocol,
                              <PyObject *>message)
            else:
                self.data_received(message)
            keep_spare(&model.spare_messages, <PyObject *>message, capacity)
        return 0

    cdef int fill_protocol_buffers(self, const char *data, Py_ssize_t n) except -1:
        """Copy `data` into the buffers of a BufferedProtocol, one after another.

        If a callback pauses reading, closes the stream or replaces the protocol, the remaining data
        is kept, discarded, or passed to the new protocol. `data` must not be memory that another
        receive could write to meanwhile.
        """
        cdef Py_buffer view
        cdef Py_ssize_t part
        if self.direct:
            return (<DirectProtocol>self.protocol).feed(data, n)
        while n and not self.closed and not self.closing:
            if self.paused & PAUSED:
                if self.paused_data is None:
                    self.paused_data = []
                self.paused_data.insert(0, PyBytes_FromStringAndSize(data, n))
                return 0
            if not self.buffered or self.direct:
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
        """Keep data that arrived while reading was paused, after the data that is kept already."""
        if self.paused_data is None:
            self.paused_data = []
        self.paused_data.append(data)
        return 0

    cdef int handle_eof(self) except -1:
        """The peer has closed its sending side."""
        self.note(RecordKind.END_OF_STREAM, 0)
        if self.paused:
            self.keep_paused_data(b"")
            return 0
        if self.received_turn == <unsigned>self.loop.turns and not self.eof_delivered:
            # asyncio receives once in a turn, so it reports the end in a later turn than the last
            # data; a task that waits for that data may inspect the connection in between.
            self.model.unwatch(self, RECEIVE)
            self.model.queue.put(self, CALL, EOF_REACHED, NULL)
            return 0
        return self.deliver_eof()

    cdef int deliver_eof(self) except -1:
        """Call eof_received, once."""
        if self.eof_delivered or self.closed:
            return 0
        self.eof_delivered = True
        try:
            if not self.closing and not self.protocol.eof_received():
                self.close()
        finally:
            # A level-triggered model would report the end again.
            if not self.closed:
                self.model.unwatch(self, RECEIVE)
        return 0

    cdef int failed(self, int error) except -1:
        return self.force_close(OSError(error, os.strerror(error)))

    def pause_reading(self):
        """Stop calling data_received; data that still arrives is kept until resume_reading."""
        if self.paused & PAUSED or self.closing or self.closed:
            return
        self.paused |= PAUSED
        self.note(RecordKind.PAUSE_READING, 0)
        self.model.unwatch(self, RECEIVE)

    def resume_reading(self):
        """Call data_received again."""
        if not self.paused & PAUSED or self.closing or self.closed:
            return
        self.paused &= ~PAUSED
        self.note(RecordKind.RESUME_READING, 0)
        if self.paused_data is not None:
            # The kept data is delivered first, from the queue and not from within this call.
            self.paused |= DELIVERING_PAUSED
            self.model.queue.put(self, CALL, READING_RESUMED, NULL)
        elif not self.eof_delivered:
            self.model.watch(self, RECEIVE)

    def detach_reading(self):
        """Pause reading so that other code may receive from the descriptor, until resume_reading.

        Return False, without a change, if received bytes may still arrive here. A later call may
        succeed.
        """
        if self.eof_delivered or self.closing or self.closed or self.paused_data is not None \
                or self.model.recv_in_flight(self):
            return False
        self.pause_reading()
        return True

    cdef int deliver_paused_data(self) except -1:
        """Deliver the kept data, until the protocol pauses reading or the stream is closed."""
        cdef bytes data
        # DELIVERING_PAUSED stays set meanwhile, so that newly received data is kept behind this.
        while self.paused_data and not (self.paused & PAUSED or self.closing or self.closed):
            data = self.paused_data.pop(0)
            try:
                if data:
                    self.deliver_data(data)
                else:
                    self.deliver_eof()
            except BaseException:
                # The loop may run again, for example after KeyboardInterrupt.
                self.model.queue.put(self, CALL, READING_RESUMED, NULL)
                raise
        if self.closing or self.closed:
            return 0
        if not self.paused_data:
            self.paused_data = None
        self.paused &= PAUSED
        if not self.paused and not self.eof_delivered:
            self.model.watch(self, RECEIVE)
        return 0

    def is_reading(self):
        """Whether data_received may be called."""
        return not (self.paused & PAUSED or self.closing or self.closed)

    # Sending.

    cpdef write(self, data):
        """Send what the socket takes, and keep the rest; never wait."""
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
                # Copied, as the caller may change its buffer after this call.
                self.keep_unsent(PyBytes_FromStringAndSize(<const char *>view.buf + sent,
                                                           view.len - sent), 0)
        finally:
            PyBuffer_Release(&view)

    @cython.final
    cdef Py_ssize_t send_now(self, const char *data, Py_ssize_t n) except? -2:
        """Send what the socket takes; return the offset of the rest, or -1 if there is none."""
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
        """Raise RuntimeError: `method` was called in a state other than 0."""
        if self.write_state == SENDFILE:
            raise RuntimeError(f"unable to {method}; sendfile is in progress")
        raise RuntimeError(f"Cannot call {method}() after write_eof()")

    def writelines(self, list_of_data):
        """Send several buffers with one system call, and keep what the socket does not take."""
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

    @cython.final
    cdef WriteBuffer write_buffer(self):
        """The stream's write buffer, made if there is none."""
        if self.unsent is None:
            self.unsent = WriteBuffer.__new__(WriteBuffer)
        return self.unsent

    cdef int append_outgoing(self, bytes data, Py_ssize_t offset) except -1:
        """Keep `data` from `offset` on."""
        cdef WriteBuffer buffer = self.write_buffer()
        buffer.append(data)
        if self.unsent_size == 0:
            buffer.offset = offset
        elif offset:
            raise AssertionError("only the first buffer can be partly sent")
        self.unsent_size += len(data) - offset
        return 0

    cdef int watch_writable(self) except -1:
        """Watch until the socket takes more data; pause the protocol above the high-water mark."""
        self.note(RecordKind.UNSENT, self.unsent_size)
        self.model.watch(self, SEND)
        if self.unsent_size > self.high_water() and not self.protocol_paused:
            self.pause_protocol(True)

    @cython.final
    cdef Py_ssize_t high_water(self) noexcept:
        """The number of unsent bytes above which pause_writing is called."""
        return HIGH_WATER if self.unsent is None else self.unsent.high

    @cython.final
    cdef Py_ssize_t low_water(self) noexcept:
        """The number of unsent bytes at or below which resume_writing is called."""
        return LOW_WATER if self.unsent is None else self.unsent.low

    cdef int pause_protocol(self, bint paused) except -1:
        """Have the protocol stop writing, or resume."""
        self.protocol_paused = paused
        self.note(RecordKind.PAUSE_WRITING if paused else RecordKind.RESUME_WRITING,
                  self.unsent_size)
        return self.notify_flow_control()

    cdef int notify_flow_control(self) except -1:
        """Call pause_writing or resume_writing."""
        if self.protocol_paused:
            self.protocol.pause_writing()
        else:
            self.protocol.resume_writing()
        return 0

    cdef int count_lost_write(self) except -1:
        """Count a write after the connection was lost; log it from the fifth on."""
        if self.writes_after_close >= LOGGED_LOST_WRITES:
            log.warning("socket.send() raised exception.")
        if self.writes_after_close < 255:
            self.writes_after_close += 1

    cdef int keep_unsent(self, bytes data, Py_ssize_t offset) except -1:
        """Keep `data` from `offset` on, and send it when the socket is writable."""
        self.append_outgoing(data, offset)
        self.watch_writable()
        return 0

    cdef int flush(self) except -1:
        """Send the kept data, until all is sent or the socket takes no more."""
        cdef iovec parts[MAX_IOVECS]
        cdef msghdr message
        cdef Py_ssize_t sent
        cdef int count
        while self.unsent_size:
            count = self.unsent.first_parts(parts, MAX_IOVECS)
            if count == 1:
                sent = self.model.send(self, <char *>parts[0].iov_base, parts[0].iov_len)
            else:
                memset(&message, 0, sizeof(message))
                message.msg_iov = parts
                message.msg_iovlen = count
                sent = self.model.send_many(self, &message)
            if sent == -EAGAIN:
                return 0
            if sent < 0:
                return self.force_close(OSError(-sent, os.strerror(-sent)))
            self.count_sent(sent)
        return 0

    cdef int count_sent(self, Py_ssize_t sent) except -1:
        """Remove `sent` bytes from the kept data."""
        self.unsent_size -= sent
        return self.unsent.remove_sent(sent)

    cdef int flush_at_turn_end(self) except -1:
        return 0    # a Connection sends the data that was deferred until the end of the turn

    cdef int writable(self) except -1:
        self.flush()
        if self.closed:
            return 0
        self.note(RecordKind.UNSENT, self.unsent_size)
        if self.protocol_paused and self.unsent_size <= self.low_water():
            self.pause_protocol(False)
        if self.unsent_size or self.closed:
            return 0
        self.model.unwatch(self, SEND)
        if self.closing:
            self.force_close(None)
        elif self.write_state == EOF_WRITTEN:
            self.model.kernel_end_sending(self.fd)
        return 0

    def write_eof(self):
        """Close the sending side after the kept data was sent; receiving continues."""
        if self.closing or self.write_state or self.closed:
            return
        self.write_state = EOF_WRITTEN
        if not self.unsent_size:
            self.model.kernel_end_sending(self.fd)

    def can_write_eof(self):
        """True: a socket has a sending side of its own."""
        return True

    def set_write_buffer_limits(self, high=None, low=None):
        """Set the sizes of unsent data, in bytes, for calls of the protocol.

        pause_writing is called above `high`, resume_writing at or below `low`.
        """
        cdef WriteBuffer buffer = self.write_buffer()
        buffer.high, buffer.low = checked_limits(high, low)
        if not self.protocol_paused and self.protocol is not None \
                and self.get_write_buffer_size() > buffer.high:
            self.pause_protocol(True)

    def get_write_buffer_limits(self):
        """The limits (low, high), in bytes."""
        return (self.low_water(), self.high_water())

    def get_write_buffer_size(self):
        """The number of bytes that are not sent yet."""
        return self.unsent_size

    # Closing.

    def close(self):
        """Stop receiving; close the connection after the kept data was sent."""
        if self.closing or self.closed:
            return
        self.closing = True
        if self.unsent_size:
            self.model.unwatch(self, RECEIVE)
        else:
            self.force_close(None)

    cdef int discard_unsent(self) except -1:
        if self.unsent is not None:
            self.unsent.parts = None
        self.paused_data = None
        self.unsent_size = 0
        return 0

    cdef int drop_protocol(self) except -1:
        self.direct = False
        self.protocol = self.data_received = None
        return 0

    cdef int finish_close(self, object error) except -1:
        cdef StreamSet group = self.group
        if group is not None and group.on_close is not None:
            group.on_close(self, error)
        self.detach_socket()
        return self.model.release(self)

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

    cdef int released(self) except -1:
        cdef int fd = self.fd
        # Held here: the stream's reference may be the only one.
        cdef StreamSet group = self.group
        if fd < 0:
            return 0
        self.detach_socket()
        self.note(RecordKind.CLOSE, 0)
        self.fd = -1
        self.model.kernel_close(fd)
        if group is not None:
            self.group = None
            group.discard(self)
        return 0

    def __dealloc__(self):
        if self.incoming != NULL:
            Py_DECREF(<object>self.incoming)
        if self.fd >= 0 and not self.socket_owns_fd:
            c_close(self.fd)
            self.fd = -1

    # Information.

    def set_protocol(self, protocol):
        """Replace the protocol."""
        self.use_protocol(protocol)

    def __repr__(self):
        state = "closed" if self.fd < 0 else "closing" if self.is_closing() else "open"
        return f"<noria Stream fd={self.fd} {state}>"
