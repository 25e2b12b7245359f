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

from noria._core.contract cimport CALL, RECEIVE, SPACE, Channel, Event, Model
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
    LARGE = 16 * 1024           # from here a copy costs more than a fresh object
    FRESH = 256 * 1024
    BATCH = 64                  # buffers in one sendmsg
    VANISHED = 1                # results of the stream's own CALL events
    RESUMED = 2
    ENDED = 4                   # 3 is Connection's

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


cdef inline Py_ssize_t expect(Py_ssize_t hint, Py_ssize_t n) noexcept:
    """How large the next message may be: as this one, and after a large one not at once small."""
    return n if n >= hint else (hint + n) >> 1


cdef class Sink:
    """A compiled protocol that takes bytes where they are."""

    cdef int feed(self, const char *data, Py_ssize_t n) except -1:
        raise NotImplementedError

    cdef int feed_bytes(self, bytes data) except -1:
        return self.feed(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))


cdef class Group:
    """Streams that are open. `len()` counts them; iteration goes over a snapshot."""

    def __cinit__(self):
        self.streams = set()

    def __len__(self):
        return len(self.streams)

    def __iter__(self):
        return iter(list(self.streams))

    cdef int link(self, Stream stream) except -1:
        stream.group = self
        self.streams.add(stream)
        return 0

    cdef int unlink(self, Stream stream) except -1:
        stream.group = None
        self.streams.discard(stream)
        if self.starved is not None:
            resume, self.starved = self.starved, None
            resume()
        return 0


cdef class Stream(Channel):
    """A connection as its protocol sees it: the methods of asyncio.Transport."""

    cdef int open(self, Loop loop, int fd, object protocol, Group group, bint tcp) except -1:
        """Takes over `fd`; `start` then tells the protocol."""
        cdef int one = 1
        self.fd = fd
        self.loop = loop
        self.model = loop.model
        self.tcp = tcp
        self.high = HIGH_WATER
        self.low = HIGH_WATER // 4
        self.adopt(protocol)
        if tcp:
            self.model.counters.controls += 1
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))
        if group is not None:
            group.link(self)
        return 0

    cdef int start(self) except -1:
        if self.group.on_open is not None:
            self.group.on_open(self)
        self.protocol.connection_made(self)
        if not self.paused and not self.leaving and not self.gone:
            self.model.watch(self, RECEIVE)
        return 0

    cdef int adopt(self, object protocol) except -1:
        self.protocol = protocol
        self.sink = <Sink>protocol if isinstance(protocol, Sink) and (<Sink>protocol).direct \
            else None
        self.buffered = self.sink is not None or isinstance(protocol, BufferedProtocol)
        # Looked up once. The class's function is the same for all its protocols, so it stays in the
        # cache where a bound method for each would not.
        method = None if self.buffered else protocol.data_received
        self.method = type(method) is MethodType and method.__self__ is protocol
        self.data_received = method.__func__ if self.method else method
        return 0

    @cython.final
    cdef int hand_over(self, bytes data) except -1:
        if self.method:
            self.data_received(self.protocol, data)
        else:
            self.data_received(data)
        return 0

    # Receiving.

    cdef bint large(self) noexcept:
        return self.hint >= LARGE and (not self.buffered
                                       or (self.sink is not None and self.sink.keeps))

    cdef bint reserve(self, char **place, Py_ssize_t *size) except -1:
        # A large message is received straight into the object that the protocol will get.
        if not self.large():
            return False
        self.fresh = bytes_of_size(NULL, FRESH)
        place[0] = PyBytes_AS_STRING(<bytes>self.fresh)
        size[0] = FRESH
        return True

    cdef int filled(self, Py_ssize_t n) except -1:
        cdef Raw *raw = self.fresh
        cdef bytes data
        self.fresh = NULL
        if n <= 0:
            Py_DECREF(<object>raw)
            return self.end() if n == 0 else 0
        self.hint = <unsigned>expect(self.hint, n)
        self.received_turn = <unsigned>self.loop.turns
        if n < FRESH:
            _PyBytes_Resize(&raw, n)
        data = <bytes>raw
        Py_DECREF(data)
        if self.gone or self.leaving:
            return 0
        if self.paused:
            self.hold(data)
        else:
            self.deliver_data(data)
        return 0

    cdef int deliver_data(self, bytes data) except -1:
        """Pass `data` to the protocol, in the way that its kind wants it."""
        if self.sink is not None:
            self.sink.feed_bytes(data)
        elif self.buffered:
            self.fill_protocol(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        else:
            self.hand_over(data)
        return 0

    cdef int received(self, const char *data, Py_ssize_t n) except -1:
        cdef bytes message
        cdef Model model
        if n == 0:
            return self.end()
        if self.gone or self.leaving:
            return 0
        self.hint = <unsigned>expect(self.hint, n)
        self.received_turn = <unsigned>self.loop.turns
        if self.paused:
            self.hold(PyBytes_FromStringAndSize(data, n))
        elif self.buffered:
            self.fill_protocol(data, n)
        else:
            model = self.model
            message = <bytes>model.spare
            model.spare = None      # a handler may run the model again, or raise
            if message is not None and alone(message) and n <= model.spare_room < 2 * n:
                rewrite(message, data, n)
            else:
                message = PyBytes_FromStringAndSize(data, n)
                model.spare_room = n
            if self.method:
                self.data_received(self.protocol, message)
            else:
                self.data_received(message)
            if alone(message):
                model.spare = message
        return 0

    cdef int fill_protocol(self, const char *data, Py_ssize_t n) except -1:
        """Copy `data` into the buffers of a BufferedProtocol, as many as it takes.

        A callback may pause, close or replace the protocol: what is left of `data` then waits, is
        discarded, or goes to the new protocol. `data` must not be memory that another receive
        could write to meanwhile.
        """
        cdef Py_buffer view
        cdef Py_ssize_t part
        if self.sink is not None:
            return self.sink.feed(data, n)
        while n and not self.gone and not self.leaving:
            if self.paused & PAUSED:
                if self.held is None:
                    self.held = []
                self.held.insert(0, PyBytes_FromStringAndSize(data, n))
                return 0
            if not self.buffered or self.sink is not None:
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

    cdef int hold(self, bytes data) except -1:
        """Keep data that arrived while reading was paused, behind what is kept already."""
        if self.held is None:
            self.held = []
        self.held.append(data)
        return 0

    cdef int end(self) except -1:
        """The peer has sent all it will."""
        if self.paused:
            self.hold(b"")
            return 0
        if self.received_turn == <unsigned>self.loop.turns and not self.ended:
            # Never in the turn of the last data: asyncio receives once a turn, and who waits for
            # that data may look at the connection in the next turns.
            self.model.unwatch(self, RECEIVE)
            self.model.queue.put(self, CALL, ENDED, NULL)
            return 0
        return self.end_of_stream()

    cdef int end_of_stream(self) except -1:
        """Tell the protocol of the end, once."""
        if self.ended or self.gone:
            return 0
        self.ended = True
        self.model.unwatch(self, RECEIVE)
        if self.leaving:
            return 0
        if not self.protocol.eof_received():
            self.close()
        return 0

    cdef int failed(self, int error) except -1:
        return self.vanish(OSError(error, os.strerror(error)))

    cdef bint fault(self, object error) except -1:
        """A handler of the protocol raised: its own connection ends, the others go on."""
        if self.gone and self.protocol is None:
            return False
        log.error("%r raised: its connection is closed", self.protocol, exc_info=error)
        self.vanish(error)
        return True

    def pause_reading(self):
        """Stop calls of data_received; data that still arrives is held until resume_reading."""
        if self.paused & PAUSED or self.leaving or self.gone:
            return
        self.paused |= PAUSED
        self.model.unwatch(self, RECEIVE)

    def resume_reading(self):
        """Undo pause_reading."""
        if not self.paused & PAUSED or self.leaving or self.gone:
            return
        self.paused &= ~PAUSED
        if self.held is not None:
            # Held data is delivered first, and from the queue: never from within the caller.
            self.paused |= HOLDING
            self.model.queue.put(self, CALL, RESUMED, NULL)
        elif not self.ended:
            self.model.watch(self, RECEIVE)

    def lend_reading(self):
        """Pauses reading so that, until resume_reading, another may receive from the descriptor.

        False, and nothing has changed, where bytes may be on their way to here; True later perhaps.
        """
        if self.ended or self.leaving or self.gone or self.held is not None \
                or self.model.carries(self):
            return False
        self.pause_reading()
        return True

    cdef int release_held(self) except -1:
        """Deliver held data until there is none, or until the protocol pauses or closes."""
        cdef bytes data
        # HOLDING stays set meanwhile, so that what a model receives now queues behind.
        while self.held and not (self.paused & PAUSED or self.leaving or self.gone):
            data = self.held.pop(0)
            try:
                if data:
                    self.deliver_data(data)
                else:
                    self.end_of_stream()
            except BaseException:
                # KeyboardInterrupt, say, after which the loop may run again: so does this.
                self.model.queue.put(self, CALL, RESUMED, NULL)
                raise
        if self.leaving or self.gone:
            return 0
        if not self.held:
            self.held = None
        self.paused &= PAUSED
        if self.paused:
            return 0
        if not self.ended:
            self.model.watch(self, RECEIVE)
        return 0

    def is_reading(self):
        """True if data_received may be called."""
        return not (self.paused & PAUSED or self.leaving or self.gone)

    # Sending.

    cpdef write(self, data):
        """Sends at once what there is room for and keeps the rest; never waits."""
        cdef Py_buffer view
        cdef Py_ssize_t sent
        if type(data) is bytes:
            sent = self.send_now(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
            if sent >= 0:
                self.keep(data, sent)
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
                self.keep(PyBytes_FromStringAndSize(<const char *>view.buf + sent,
                                                    view.len - sent), 0)
        finally:
            PyBuffer_Release(&view)

    @cython.final
    cdef Py_ssize_t send_now(self, const char *data, Py_ssize_t n) except? -2:
        """Sends what there is room for; from where on the rest is to be kept, or -1 for no rest."""
        cdef Py_ssize_t sent
        if self.ending:
            self.refuse_to_write("write")
        if n == 0:
            return -1
        if self.gone:
            self.count_lost()
            return -1
        if self.backlog:
            return 0
        sent = self.model.send(self, data, n)
        if sent == n:
            return -1
        if sent >= 0:
            return sent
        if sent == -EAGAIN:
            return 0
        self.vanish(OSError(-sent, os.strerror(-sent)))
        return -1

    cdef int refuse_to_write(self, str method) except -1:
        if self.ending == LENT:
            raise RuntimeError(f"unable to {method}; sendfile is in progress")
        raise RuntimeError(f"Cannot call {method}() after write_eof()")

    def writelines(self, list_of_data):
        """Sends several buffers, in one system call where there is room."""
        cdef bint idle = self.backlog == 0
        parts = [bytes_of(part) for part in list_of_data]
        if self.ending:
            self.refuse_to_write("writelines")
        if not any(parts):
            return
        if self.gone:
            self.count_lost()
            return
        for part in parts:
            if part:
                self.append(part, 0)
        if idle:
            self.flush()
        if self.backlog and not self.gone:
            self.await_room()

    cdef int append(self, bytes data, Py_ssize_t offset) except -1:
        if self.outgoing is None:
            self.outgoing = []
        if self.backlog == 0:
            self.offset = offset
        elif offset:
            raise AssertionError("only the first buffer can be sent in part")
        self.outgoing.append(data)
        self.backlog += len(data) - offset
        return 0

    cdef int await_room(self) except -1:
        self.model.watch(self, SPACE)
        if self.backlog > self.high and not self.full:
            self.full = True
            self.tell_room()

    cdef int tell_room(self) except -1:
        """Tells the protocol whether it may write."""
        if self.full:
            self.protocol.pause_writing()
        else:
            self.protocol.resume_writing()
        return 0

    cdef int count_lost(self) except -1:
        if self.lost >= 5:
            log.warning("socket.send() raised exception.")
        if self.lost < 255:
            self.lost += 1

    cdef int keep(self, bytes data, Py_ssize_t offset) except -1:
        self.append(data, offset)
        self.await_room()
        return 0

    cdef int flush(self) except -1:
        """Sends what is kept, until done or there is no more room."""
        cdef iovec parts[BATCH]
        cdef msghdr message
        cdef bytes part
        cdef Py_ssize_t i, count, sent
        while self.backlog:
            count = min(<Py_ssize_t>BATCH, len(self.outgoing) - self.first)
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
                return self.vanish(OSError(-sent, os.strerror(-sent)))
            self.count_sent(sent)
        return 0

    cdef int count_sent(self, Py_ssize_t sent) except -1:
        """So much of what is kept is sent."""
        cdef Py_ssize_t size
        self.backlog -= sent
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

    cdef int end_turn(self) except -1:
        """For one that asked its loop to be told."""
        return 0

    cdef int writable(self) except -1:
        self.flush()
        if self.gone:
            return 0
        if self.full and self.backlog <= self.low:
            self.full = False
            self.tell_room()
        if self.backlog or self.gone:
            return 0
        self.model.unwatch(self, SPACE)
        if self.leaving:
            self.vanish(None)
        elif self.ending == ENDING:
            self.model.kernel_end_sending(self.fd)
        return 0

    def write_eof(self):
        """Ends the sending side once all is sent; receiving goes on."""
        if self.leaving or self.ending or self.gone:
            return
        self.ending = ENDING
        if not self.backlog:
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
        if self.backlog > self.high and not self.full and self.protocol is not None:
            self.full = True
            self.tell_room()

    def get_write_buffer_limits(self):
        """(low, high), in bytes."""
        return (self.low, self.high)

    def get_write_buffer_size(self):
        """Bytes kept because there was no room to send them."""
        return self.backlog

    # Ending.

    def close(self):
        """Stops receiving, sends what is kept, then ends the connection."""
        if self.leaving or self.gone:
            return
        self.leaving = True
        self.model.unwatch(self, RECEIVE)
        if not self.backlog:
            self.vanish(None)

    def abort(self):
        """Ends the connection now; what is kept is not sent."""
        self.vanish(None)

    def is_closing(self):
        """True once it is ending."""
        return self.leaving != 0 or self.gone != 0

    cdef int vanish(self, object error) except -1:
        """Nothing more is sent or received; connection_lost is called from the queue."""
        if self.gone:
            return 0
        self.gone = self.leaving = True
        self.error = error
        self.outgoing = None
        self.held = None
        self.backlog = 0
        if self.model.closed:
            # Nobody takes events any more; a queue that held this one would hold it for ever.
            self.protocol = self.data_received = self.sink = None
            return self.model.release(self)
        if self.watched:
            self.model.unwatch(self, self.watched)
        self.model.queue.put(self, CALL, VANISHED, NULL)
        return 0

    cdef int handle(self, Event *event) except -1:
        if event.kind != CALL:
            return self.model.deliver(self, event)
        if event.result == RESUMED:
            return self.release_held()
        if event.result == ENDED:
            if self.gone:
                return 0
            return self.hold(b"") if self.paused else self.end_of_stream()
        return self.lose()

    cdef int lose(self) except -1:
        cdef object protocol = self.protocol
        cdef object error = self.error
        cdef Group group = self.group
        if protocol is None:
            return 0
        self.protocol = self.data_received = self.sink = None
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
        if self.shared:
            self.shared = False
            self.extra["socket"]._sock.detach()
        return 0

    cdef int released(self) except -1:
        cdef int fd = self.fd
        cdef Group group = self.group   # which may live by this stream alone
        if fd < 0:
            return 0
        self.detach_socket()
        self.fd = -1
        self.model.kernel_close(fd)
        if group is not None:
            group.unlink(self)
        return 0

    def __dealloc__(self):
        if self.fresh != NULL:
            Py_DECREF(<object>self.fresh)
        if self.fd >= 0 and not self.shared:
            c_close(self.fd)
            self.fd = -1

    # What it tells of itself.

    def set_protocol(self, protocol):
        """What is called from now on."""
        self.adopt(protocol)

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
            self.shared = True
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


def open_stream(Loop loop, int fd, protocol, Group group, bint tcp):
    """A stream on a connected socket, whose descriptor it takes over; the protocol is told."""
    cdef Stream stream = Stream.__new__(Stream)
    stream.open(loop, fd, protocol, group, tcp)
    try:
        stream.start()
    except Exception as error:
        stream.fault(error)
    return stream
