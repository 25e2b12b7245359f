"""A stream of the asyncio loop: it has a context, a server, and asyncio's error reports.

The protocol's transport is an instance of a subclass of asyncio.Transport (`noria.aio.transports`)
whose `write` and `writelines` are this object's methods.

A write is sent at once if no other event of the turn is waiting for its handler. Otherwise it is
deferred until these have run, unless that takes long (may_defer_write): writes of many connections
cost less when they are sent one after the other, as their peers wake up together, and io_uring
takes all of them in one call. A connection that writes several times in a turn, as web servers do
with a head and a body, would send a packet for each write: its next writes are corked, which means
joined and sent at the end of the turn, until a turn has only one.
"""

cimport cython
from cpython.buffer cimport (
    PyBUF_FULL_RO, PyBuffer_IsContiguous, PyBuffer_Release, PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.contextvars cimport PyContext_CopyCurrent, PyContext_Enter, PyContext_Exit

from noria._core.address cimport noria_address
from noria._core.aio.core cimport Core
from noria._core.contract cimport CALL, RECEIVE, SEND, Event
from noria._core.message cimport bytes_of
from noria._core.stream cimport PAUSED, SENDFILE, Stream
from noria._core.sys cimport EAGAIN, EBADF, EINTR, getpeername, getsockname, sockaddr, socklen_t

import logging
import os
import socket
from asyncio.trsock import TransportSocket

INET_FAMILIES = (socket.AF_INET, socket.AF_INET6)

log = logging.getLogger("noria")

cdef enum:
    # result of a CALL event, beside those of Stream
    STARTED = 3
    # bytes that one connection defers to the end of the turn
    MAX_CORKED = 16 * 1024
    # bytes that are copied from a caller's buffer to be deferred
    MAX_COPIED = 4 * 1024


cdef class Connection(Stream):
    """A connected socket of the asyncio loop."""

    cdef int call_connection_made(self) except -1:
        """Call connection_made, start to receive, and set the waiter's result."""
        self.core.connect_protocol(self.protocol, self.transport)
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
            if event.kind == CALL and event.result == STARTED:
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
        if self.empty_waiter is not None and not self.unsent_size and not self.closed:
            if not self.empty_waiter.done():
                self.empty_waiter.set_result(None)
        return 0

    cdef int notify_flow_control(self) except -1:
        return self.core.notify_flow_control(self.protocol, self.transport, self.protocol_paused)

    cdef int force_close(self, object error) except -1:
        Stream.force_close(self, error)
        if self.empty_waiter is not None and not self.empty_waiter.done():
            self.empty_waiter.set_exception(
                ConnectionError("the connection was closed before all data was sent"))
        return 0

    cdef bint handle_error(self, object error) except -1:
        if self.protocol is None:
            return False
        if isinstance(error, OSError):
            if self.core.debugging:
                log.debug("%r: fatal error on transport", self.transport, exc_info=error)
        else:
            self.core.report_exception("Fatal error: a callback of the protocol failed.", error,
                                       {"transport": self.transport, "protocol": self.protocol})
        self.force_close(error)
        return True

    cdef int call_connection_lost(self) except -1:
        cdef object transport = self.transport
        cdef object server = self.server
        if self.protocol is None:
            return 0
        protocol, self.protocol = self.protocol, None
        error, self.error = self.error, None
        self.data_received = self.direct_protocol = None
        try:
            protocol.connection_lost(error)
        finally:
            self.transport = self.server = None
            self.detach_socket()
            self.model.release(self)
            if server is not None:
                server.detach(transport)
        return 0

    cdef int released(self) except -1:
        if self.fd >= 0 and self.core.fd_transport(self.fd) is self:
            self.core.set_fd_transport(self.fd, None)
        self.detach_socket()
        return Stream.released(self)

    cdef int detach_socket(self) except -1:
        if self.caller_socket is not None:
            if self.caller_socket.fileno() != self.fd:
                if self.core.fd_transport(self.fd) is self:
                    self.core.set_fd_transport(self.fd, None)
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
        if self.fd >= 0 and self.core is not None and self.fd < self.core.fd_transports_size and \
                self.core.fd_transports[self.fd] == <void *>self:
            self.core.fd_transports[self.fd] = NULL

    # Writing.

    cpdef write(self, data):
        if self.caller_socket is not None and self.closed_by_caller():
            return
        if self.bursty or self.corked:
            if self.core.running and self.cork(data):
                return
            if self.corked:
                self.flush_corked(bytes_of(data))
                return
        elif self.core.events_left:
            if self.defer_write(data):
                return
        elif self.last_write_turn == self.core.turn_number:
            self.bursty = True
        else:
            self.last_write_turn = self.core.turn_number
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
        if n == 0 or n > MAX_CORKED or not self.core.may_defer_write():
            return False
        self.deferred_write = deferred_write
        self.unsent_size = n
        # A caller may close its socket before the turn ends: it is checked again then.
        if self.caller_socket is not None or not self.model.send_later(
                self, PyBytes_AS_STRING(deferred_write), n):
            self.corked = True
            self.core.corked.append(self)
        return True

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
            if self.unsent_size or not self.core.may_defer_write():
                return False
            self.corked = True
            self.core.corked.append(self)
        self.append_outgoing(part, 0)
        return True

    cdef int append_outgoing(self, bytes data, Py_ssize_t offset) except -1:
        if self.deferred_write is not None:
            self.start_outgoing(self.deferred_write)
        return Stream.append_outgoing(self, data, offset)

    @cython.final
    cdef int start_outgoing(self, bytes data) except -1:
        """Put a deferred write into `outgoing`, if it is not in there."""
        if self.outgoing is None:
            self.outgoing = [data]
            self.first = self.offset = 0
        return 0

    cdef bint coalesce(self) except -1:
        """Join the corked data into one deferred write; return False if there is none."""
        self.corked = False
        if self.closed or not self.unsent_size \
                or (self.caller_socket is not None and self.closed_by_caller()):
            self.deferred_write = None
            return False
        if self.outgoing is not None:
            self.deferred_write = b"".join(self.outgoing)
            self.outgoing = None
        return True

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
        if self.outgoing is None or len(self.outgoing) == 1:
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
        if self.empty_waiter is not None:
            raise RuntimeError("Empty waiter is already set")
        if self.write_state:
            self.raise_unwritable("sendfile")
        self.uncork()
        self.write_state = SENDFILE
        self.empty_waiter = self.core.create_future()
        if not self.unsent_size:
            self.empty_waiter.set_result(None)
        self.core.set_fd_transport(self.fd, None)
        return self.empty_waiter

    def wait_writable(self):
        """Return a future, done when the socket is writable.

        To be called between `begin_sendfile` and `end_sendfile`. The future fails with
        ConnectionError if the connection ends first.
        """
        self.empty_waiter = self.core.create_future()
        if self.closed or self.closing:
            self.empty_waiter.set_exception(ConnectionError("the connection was closed"))
        else:
            self.model.watch(self, SEND)
        return self.empty_waiter

    def end_sendfile(self):
        """Accept writes again."""
        self.empty_waiter = None
        if self.watched & SEND and not self.unsent_size:
            self.model.unwatch(self, SEND)
        if self.write_state == SENDFILE:
            self.write_state = 0
        if not self.closed:
            self.core.set_fd_transport(self.fd, self)

    # State.

    def get_extra_info(self, name, default=None):
        if self.extra is None:
            self.extra = {}
        if name in self.extra:
            return self.extra[name]
        if name == "peername" and self.peer_length:
            self.extra[name] = noria_address(self.peer, self.peer_length)
        elif name == "sockname" and self.name_length:
            self.extra[name] = noria_address(self.name, self.name_length)
        else:
            return Stream.get_extra_info(self, name, default)
        return self.extra[name]

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
        return self.core

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

    def close_unreferenced(self, transport):
        """Close the connection of a transport that has no references; call no protocol method."""
        if self.fd < 0 or self.releasing:
            return
        self.uncork()
        self.closed = self.closing = True
        self.outgoing = None
        self.unsent_size = 0
        self.model.release(self)
        server, self.server = self.server, None
        if server is not None:
            server.detach(transport)


cdef Connection new_connection(Core core, int fd, object protocol, object server, bint tcp,
                               object context):
    """Create a connection, which then owns the descriptor, and its transport.

    The protocol's methods run in `context`, by default a copy of the current one.
    """
    cdef Connection connection = Connection.__new__(Connection)
    cdef socklen_t length = sizeof(connection.peer)
    connection.core = core
    connection.server = server
    connection.context = PyContext_CopyCurrent() if context is None else context
    connection.open(core, fd, protocol, None, tcp)
    if getpeername(fd, <sockaddr *>connection.peer, &length) == 0 and \
            length <= sizeof(connection.peer):
        connection.peer_length = <unsigned char>length
    length = sizeof(connection.name)
    if getsockname(fd, <sockaddr *>connection.name, &length) == 0 and \
            length <= sizeof(connection.name):
        connection.name_length = <unsigned char>length
    connection.transport = core.make_transport(connection)
    core.set_fd_transport(fd, connection)
    if server is not None:
        server.attach(connection.transport)
    return connection


def connect(Core core, sock, protocol, server, bint from_caller, context):
    """Create a connection, which then owns the socket; schedule_connection_made starts it.

    `from_caller`: the caller of a public method has the socket object, too, and may close it.
    """
    cdef Connection connection
    cdef int fd = sock.fileno()
    cdef bint tcp = sock.proto == 6 or (sock.proto == 0 and sock.family in INET_FAMILIES)
    core._ensure_fd_no_transport(fd)
    connection = new_connection(core, fd, protocol, server, tcp, context)
    connection.extra = {"socket": TransportSocket(sock)}
    connection.socket_owns_fd = True
    if from_caller:
        connection.caller_socket = sock
    return connection


cdef bytes small_copy(data):
    """Copy a caller's buffer if it is small and contiguous; return None otherwise."""
    cdef Py_buffer view
    cdef bytes copy = None
    if type(data) is not memoryview and type(data) is not bytearray:
        return None
    PyObject_GetBuffer(data, &view, PyBUF_FULL_RO)
    if view.len <= MAX_COPIED and PyBuffer_IsContiguous(&view, b"C"):
        copy = PyBytes_FromStringAndSize(<char *>view.buf, view.len)
    PyBuffer_Release(&view)
    return copy
