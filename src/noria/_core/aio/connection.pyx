"""A stream of the asyncio loop: it has a context, a server, and asyncio's error reports.

A write is sent at once if no other event of the turn is waiting for its handler. Otherwise it is
deferred until these have run, unless that takes long (may_defer_write): writes of many connections
cost less when they are sent one after the other, as their peers wake up together, and io_uring
takes all of them in one call. A connection that writes several times in a turn, as web servers do
with a head and a body, would send a packet for each write: its next writes are corked, which means
joined and sent at the end of the turn, until a turn has only one.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.contextvars cimport PyContext_CopyCurrent, PyContext_Enter, PyContext_Exit
from cpython.object cimport PyObject, PyTypeObject
from cpython.ref cimport Py_DECREF
from libc.string cimport memcpy

from noria._core.address cimport noria_address, peer_address
from noria._core.aio.client_count cimport ClientCount
from noria._core.aio.core cimport Core
from noria._core.contract cimport CALL, RECEIVE, SEND, Event
from noria._core.message cimport bytes_of, keep_spare, small_copy, truncate
from noria._core.stream cimport PAUSED, SENDFILE, Stream
from noria._core.sys cimport (
    AF_INET, AF_INET6, AF_UNIX, EAGAIN, EBADF, EINTR, getsockname, sockaddr, sockaddr_storage,
    socklen_t,
)
from noria._core.transport cimport WriteBuffer

import logging
import os
import warnings
from asyncio.trsock import TransportSocket

log = logging.getLogger("noria")
cdef object warn = warnings.warn    # for __del__: at exit, it may run after globals were cleared

cdef extern from *:
    "static inline Py_ssize_t noria_refcount(PyObject *o) { return Py_REFCNT(o); }"
    Py_ssize_t reference_count "noria_refcount"(object o)
    PyObject *new_object "PyType_GenericAlloc"(PyTypeObject *cls, Py_ssize_t items) except NULL

cdef enum:
    # result of a CALL event, beside those of Stream
    STARTED = 3
    # bytes that one connection defers to the end of the turn
    MAX_CORKED = 16 * 1024


cdef class Connection(Stream):
    """A connected socket of the asyncio loop."""

    cdef int call_connection_made(self) except -1:
        """Call connection_made, start to receive, and set the waiter's result."""
        (<Core>self.loop).connect_protocol(self.protocol, self.transport)
        if not self.paused and not self.closing and not self.closed:
            self.model.watch(self, RECEIVE)
        if self.waiter is not None:
            waiter, self.waiter = self.waiter, None
            if not waiter.done():
                waiter.set_result(None)
        return 0

    def schedule_connection_made(self, waiter=None):
        """Queue the call of connection_made; `waiter` is done after it."""
        self.waiter = waiter
        self.model.queue.put(self, CALL, STARTED, NULL)

    cdef int handle(self, Event *event) except -1:
        cdef object context = self.context
        PyContext_Enter(context)
        try:
            if self.caller_socket is not None and event.kind != CALL:
                self.closed_by_caller()
            if event.kind != CALL:
                self.model.deliver(self, event)
            elif event.result == STARTED:
                self.call_connection_made()
            else:
                Stream.handle(self, event)
        finally:
            PyContext_Exit(context)
        return 0

    cdef int writable(self) except -1:
        if self.deferred_write is not None:
            # Its bytes are corked or being sent by the kernel; sent_later continues.
            return 0
        Stream.writable(self)
        if self.unsent is not None and self.unsent.empty_waiter is not None \
                and not self.unsent_size and not self.closed:
            if not self.unsent.empty_waiter.done():
                self.unsent.empty_waiter.set_result(None)
        return 0

    cdef int notify_flow_control(self) except -1:
        return (<Core>self.loop).notify_flow_control(self.protocol, self.transport,
                                                     self.protocol_paused)

    cdef int force_close(self, object error) except -1:
        if self.corked and self.coalesce():
            # Without corking, `write` would have sent it: a protocol that writes and then raises
            # does not lose its data. An error of this send is ignored, as `error` came first.
            self.send_deferred_write()
            self.deferred_write = None
        Stream.force_close(self, error)
        if self.unsent is not None and self.unsent.empty_waiter is not None \
                and not self.unsent.empty_waiter.done():
            self.unsent.empty_waiter.set_exception(
                ConnectionError("the connection was closed before all data was sent"))
        return 0

    cdef bint handle_error(self, object error) except -1:
        if self.protocol is None:
            return False
        if isinstance(error, OSError):
            if (<Core>self.loop).debugging:
                log.debug("%r: fatal error on transport", self.transport, exc_info=error)
        else:
            (<Core>self.loop).report_exception(
                "Fatal error: a callback of the protocol failed.", error,
                {"transport": self.transport, "protocol": self.protocol})
        self.force_close(error)
        return True

    cdef int call_connection_lost(self) except -1:
        cdef object transport = self.transport
        cdef object protocol = self.protocol
        cdef object error = self.error
        cdef ClientCount server = self.server
        if protocol is None:
            return 0
        self.direct = False
        self.protocol = self.error = self.data_received = None
        try:
            protocol.connection_lost(error)
        finally:
            self.transport = self.server = None
            protocol = error = None
            if reference_count(transport) > 1:
                # It is still in use, so its addresses may be read.
                self.store_addresses()
            transport = None
            self.detach_socket()
            self.model.release(self)
            if server is not None:
                server.detach()
        return 0

    cdef int released(self) except -1:
        if self.transport is not None:
            # Released without connection_lost: the loop is closed.
            self.store_addresses()
        self.forget_fd()
        self.detach_socket()
        return Stream.released(self)

    cdef int forget_fd(self) noexcept:
        """Remove this connection from the loop's table of descriptors."""
        if 0 <= self.fd < (<Core>self.loop).fd_transports_size \
                and (<Core>self.loop).fd_transports[self.fd] == <void *>self:
            (<Core>self.loop).fd_transports[self.fd] = NULL
        return 0

    cdef int detach_socket(self) except -1:
        if self.caller_socket is not None:
            if self.caller_socket.fileno() != self.fd:
                self.forget_fd()
                # The caller has closed it.
                self.fd = -1
                self.socket_owns_fd = False
            self.caller_socket = None
        return Stream.detach_socket(self)

    cdef bint closed_by_caller(self) except -1:
        """Whether the caller has closed the socket that it passed in.

        The connection is then closed, as the descriptor's number may refer to another file.
        """
        if self.closed or self.caller_socket.fileno() == self.fd:
            return False
        self.force_close(OSError(EBADF, os.strerror(EBADF)))
        return True

    def __dealloc__(self):
        # Freed while open: the number of its descriptor becomes available.
        if self.loop is not None:
            self.forget_fd()

    # Writing.

    cpdef write(self, data):
        if self.caller_socket is not None and self.closed_by_caller():
            return
        if self.bursty or self.corked:
            if (<Core>self.loop).running and self.cork(data):
                return
            if self.corked:
                self.flush_corked(bytes_of(data))
                return
        elif (<Core>self.loop).events_left:
            if self.defer_write(data):
                return
        elif self.last_write_turn == (<Core>self.loop).turn_number:
            self.bursty = True
        else:
            self.last_write_turn = (<Core>self.loop).turn_number
        Stream.write(self, data)

    def writelines(self, list_of_data):
        if self.caller_socket is not None and self.closed_by_caller():
            return
        if self.corked:
            self.flush_corked(b"".join([bytes_of(part) for part in list_of_data]))
        else:
            Stream.writelines(self, list_of_data)

    cdef int flush_corked(self, bytes data) except -1:
        """Send the corked data and `data` now.

        Flow control is reported after that, so that data that the protocol then writes comes last.
        """
        if self.write_state:
            self.raise_unwritable("write")
        if self.closed or not self.unsent_size:
            self.uncork()
            Stream.write(self, data)
            return 0
        self.corked = False
        if data:
            self.append_outgoing(data, 0)
        else:
            self.start_outgoing(self.deferred_write)
        self.deferred_write = None
        self.flush()
        if (self.unsent_size or self.protocol_paused) and not self.closed:
            self.watch_writable()
        return 0

    @cython.final
    cdef bint defer_write(self, data) except -1:
        """Defer one write; return False if the data has to be sent otherwise."""
        cdef bytes deferred_write
        cdef Py_ssize_t n
        if self.unsent_size or self.write_state or self.closed or self.closing:
            # Not corked: a deferred write is with the model already, and this is the turn's second.
            self.bursty = self.deferred_write is not None
            return False
        deferred_write = data if type(data) is bytes else small_copy(data)
        if deferred_write is None:
            return False
        n = PyBytes_GET_SIZE(deferred_write)
        if n == 0 or n > MAX_CORKED or not (<Core>self.loop).may_defer_write():
            return False
        # A caller may close its socket before the turn ends: it is checked again then.
        if self.caller_socket is not None or not self.model.send_later(
                self, PyBytes_AS_STRING(deferred_write), n):
            if not (<Core>self.loop).cork(self):
                return False
            self.corked = True
        self.deferred_write = deferred_write
        self.unsent_size = n
        return True

    @cython.final
    cdef bint cork(self, data) except -1:
        """Append the data to the corked data; return False if it has to be sent otherwise."""
        cdef bytes part = data if type(data) is bytes else small_copy(data)
        cdef Py_ssize_t n
        if part is None:
            return False
        n = PyBytes_GET_SIZE(part)
        if n == 0 or self.write_state or self.closed or self.closing \
                or self.unsent_size + n > MAX_CORKED:
            return False
        if not self.corked:
            if self.unsent_size or not (<Core>self.loop).may_defer_write() \
                    or not (<Core>self.loop).cork(self):
                return False
            self.corked = True
        self.append_corked(part, n)
        return True

    cdef int append_corked(self, bytes part, Py_ssize_t n) except -1:
        """Copy the part to the end of the corked data; a first part is referenced, not copied."""
        cdef Py_ssize_t size = self.unsent_size
        cdef bytes joined
        if size == 0:
            self.deferred_write = part
            self.corked_capacity = 0
        elif size + n <= self.corked_capacity:
            memcpy(PyBytes_AS_STRING(self.deferred_write) + size, PyBytes_AS_STRING(part), n)
        else:
            # Twice the size, as further writes may follow.
            joined = PyBytes_FromStringAndSize(NULL, 2 * (size + n))
            memcpy(PyBytes_AS_STRING(joined), PyBytes_AS_STRING(self.deferred_write), size)
            memcpy(PyBytes_AS_STRING(joined) + size, PyBytes_AS_STRING(part), n)
            self.deferred_write = joined
            self.corked_capacity = 2 * (size + n)
        self.unsent_size = size + n
        return 0

    @cython.final
    cdef void trim_corked(self) noexcept:
        """Set the size of the joined data, as no more is appended to it."""
        if self.corked_capacity:
            self.corked_capacity = 0
            truncate(self.deferred_write, self.unsent_size)

    cdef int append_outgoing(self, bytes data, Py_ssize_t offset) except -1:
        if self.deferred_write is not None:
            self.start_outgoing(self.deferred_write)
        return Stream.append_outgoing(self, data, offset)

    @cython.final
    cdef int start_outgoing(self, bytes data) except -1:
        """Put a deferred write into the write buffer, if it is not in there."""
        cdef WriteBuffer buffer = self.write_buffer()
        self.trim_corked()
        if buffer.parts is None:
            buffer.append(data)
        return 0

    @cython.final
    cdef bint coalesce(self) except -1:
        """Make the corked data the deferred write; return False if there is none."""
        self.corked = False
        if self.closed or not self.unsent_size \
                or (self.caller_socket is not None and self.closed_by_caller()):
            self.deferred_write = None
            self.corked_capacity = 0
            return False
        self.trim_corked()
        return True

    @cython.final
    cdef int send_deferred_write(self) noexcept:
        """Send the deferred write; return 0, or the result that sent_later has to handle."""
        cdef int sent = <int>self.model.send(self, PyBytes_AS_STRING(self.deferred_write),
                                             self.unsent_size)
        return 0 if self.sent_all(sent) else sent

    cdef int uncork(self) except -1:
        """Send the corked data now."""
        cdef int sent
        if self.corked and self.coalesce():
            sent = self.send_deferred_write()
            if sent:
                self.sent_later(sent)
        return 0

    cdef int flush_at_turn_end(self) except -1:
        cdef int sent
        if not self.corked:
            return 0
        if not self.corked_capacity:
            # It was the only write of this turn.
            self.bursty = False
        if not self.coalesce() or self.model.send_later(
                self, PyBytes_AS_STRING(self.deferred_write), self.unsent_size):
            return 0
        sent = self.send_deferred_write()
        if sent:
            PyContext_Enter(self.context)
            try:
                self.sent_later(sent)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:
                self.handle_error(error)
            finally:
                PyContext_Exit(self.context)
        return 0

    cdef bint sent_all(self, int result) noexcept:
        if result == self.unsent_size and not (self.closing or self.write_state
                                               or self.protocol_paused):
            keep_spare(&self.model.spare_messages, <PyObject *>self.deferred_write, result)
            self.deferred_write = None
            self.unsent_size = 0
            return True
        return False

    cdef int sent_later(self, int result) except -1:
        cdef bytes deferred_write = self.deferred_write
        self.deferred_write = None
        if self.closed:
            return 0
        if result < 0 and result != -EAGAIN and result != -EINTR:
            return self.force_close(OSError(-result, os.strerror(-result)))
        self.start_outgoing(deferred_write)
        self.count_sent(max(result, 0))
        if self.unsent_size:
            return self.watch_writable()
        return self.writable()

    def close(self):
        self.uncork()
        Stream.close(self)

    def abort(self):
        self.uncork()
        Stream.abort(self)

    def write_eof(self):
        if self.caller_socket is not None and self.closed_by_caller():
            return
        self.uncork()
        Stream.write_eof(self)

    def get_write_buffer_size(self):
        self.uncork()
        if self.deferred_write is None or self.closed:
            return self.unsent_size
        # The model is sending the deferred write.
        return self.unsent_size - PyBytes_GET_SIZE(self.deferred_write)

    # Exclusive use of the descriptor by sendfile.

    def begin_sendfile(self):
        """Refuse writes until `end_sendfile`; return a future, done when all data is sent."""
        cdef WriteBuffer buffer = self.write_buffer()
        if buffer.empty_waiter is not None:
            raise RuntimeError("Empty waiter is already set")
        if self.write_state:
            self.raise_unwritable("sendfile")
        self.uncork()
        self.write_state = SENDFILE
        buffer.empty_waiter = (<Core>self.loop).create_future()
        if not self.unsent_size:
            buffer.empty_waiter.set_result(None)
        return buffer.empty_waiter

    def wait_writable(self):
        """Return a future, done when the socket is writable.

        To be called between `begin_sendfile` and `end_sendfile`. The future fails with
        ConnectionError if the connection ends first.
        """
        cdef WriteBuffer buffer = self.write_buffer()
        buffer.empty_waiter = (<Core>self.loop).create_future()
        if self.closed or self.closing:
            buffer.empty_waiter.set_exception(ConnectionError("the connection was closed"))
        else:
            self.model.watch(self, SEND)
        return buffer.empty_waiter

    def end_sendfile(self):
        """Accept writes again."""
        if self.unsent is not None:
            self.unsent.empty_waiter = None
        if self.watched & SEND and not self.unsent_size:
            self.model.unwatch(self, SEND)
        if self.write_state == SENDFILE:
            self.write_state = 0

    # State.

    def get_extra_info(self, name, default=None):
        if self.extra is None:
            self.extra = {}
        if name in self.extra or self.find_address(name):
            return self.extra[name]
        return Stream.get_extra_info(self, name, default)

    cdef bint find_address(self, name) except -1:
        """Put the address `peername` or `sockname` into `extra`; return whether it was found."""
        cdef sockaddr_storage address
        cdef socklen_t length = sizeof(address)
        cdef bint found
        if self.fd < 0 or (self.caller_socket is not None
                           and self.caller_socket.fileno() != self.fd):
            return False
        if name == "peername":
            found = peer_address(self.fd, &address, &length)
        elif name == "sockname":
            found = getsockname(self.fd, <sockaddr *>&address, &length) == 0
        else:
            return False
        if not found or address.ss_family not in (AF_INET, AF_INET6, AF_UNIX):
            return False
        self.extra[name] = noria_address(&address, length)
        return True

    cdef int store_addresses(self) except -1:
        """Store the addresses of both ends, before the descriptor is closed."""
        if self.extra is None:
            self.extra = {}
        for name in ("peername", "sockname"):
            if name not in self.extra:
                self.find_address(name)
        return 0

    def abort_with(self, error):
        """Close the connection now; connection_lost is called with the error."""
        self.uncork()
        self.force_close(error)

    def get(self, name, default=None):
        """As get_extra_info: this object is the mapping `_extra` of its transport."""
        return self.get_extra_info(name, default)

    @property
    def reading_paused(self):
        """Whether reading is paused by pause_reading."""
        return self.paused & PAUSED != 0

    @property
    def event_loop(self):
        """The event loop of the connection."""
        return self.loop

    @property
    def writing_paused(self):
        """Whether pause_writing was called last, not resume_writing."""
        return self.protocol_paused != 0

    @property
    def at_eof(self):
        """Whether the peer has shut down its sending side."""
        return self.eof_delivered

    @property
    def connection_lost_called(self):
        """Whether connection_lost was called, even if set_protocol was called since."""
        return self.protocol is None or self.transport is None

    def __del__(self):
        # Called before the transport is finalized: each of the two refers to the other until
        # connection_lost.
        if self.transport is None or self.protocol is None:
            return
        try:
            warn(f"unclosed transport {self.transport!r}", ResourceWarning, stacklevel=1)
        finally:
            # Even if the warning is raised as an exception: the loop's table of descriptors must
            # not refer to a connection that was freed.
            if self.fd >= 0 and not self.releasing:
                self.close_unreferenced()

    cdef int close_unreferenced(self) except -1:
        """Close the descriptor; call no method of the protocol."""
        cdef ClientCount server
        self.uncork()
        self.closed = self.closing = True
        self.discard_unsent()
        self.model.release(self)
        server, self.server = self.server, None
        if server is not None:
            server.detach()
        return 0


cdef object new_transport(Core core, Connection connection):
    cdef PyObject *transport
    if core.transport_class is None:
        return core.make_transport(connection)
    # Without a call of the class, which would run its __init__ as Python code.
    transport = new_object(<PyTypeObject *>core.transport_class, 0)
    made = <object>transport
    Py_DECREF(made)
    made._connection = connection
    return made


cdef Connection new_connection(Core core, int fd, object protocol, ClientCount server,
                               bint set_nodelay, object context):
    """Create a connection, which then owns the descriptor, and its transport.

    The protocol's methods run in `context`, by default a copy of the current one.
    """
    cdef Connection connection = Connection.__new__(Connection)
    connection.context = PyContext_CopyCurrent() if context is None else context
    connection.open(core, fd, protocol, None, set_nodelay)
    connection.transport = new_transport(core, connection)
    core.set_fd_transport(fd, connection)
    if server is not None:
        connection.server = server
        server.attach()
    return connection


def connect(Core core, sock, protocol, server, bint from_caller, context):
    """Create a connection, which then owns the socket; schedule_connection_made starts it.

    `from_caller`: the caller of a public method has the socket object, too, and may close it.
    """
    cdef Connection connection
    cdef int fd = sock.fileno()
    cdef bint tcp = sock.proto == 6 or (sock.proto == 0 and sock.family in (AF_INET, AF_INET6))
    core._ensure_fd_no_transport(fd)
    connection = new_connection(core, fd, protocol, server, tcp, context)
    connection.extra = {"socket": TransportSocket(sock)}
    connection.socket_owns_fd = True
    if from_caller:
        connection.caller_socket = sock
        # The caller may close it before the addresses are read.
        connection.store_addresses()
    return connection
