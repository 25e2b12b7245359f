"""A stream as asyncio has it: with a context, a server it belongs to, and asyncio's manner of
reporting what a protocol raises.

The protocol knows its `transport`, a real subclass of asyncio.Transport; what is called for each
message is this object's own.
"""

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

INTERNET = (socket.AF_INET, socket.AF_INET6)

log = logging.getLogger("noria")

cdef enum:
    STARTED = 3         # results of its own CALL events, beside those of Stream
    MAX_CORKED = 16 * 1024  # bytes that are held until the end of a turn at most
    MAX_COPIED = 4 * 1024   # of these, in a buffer that is the caller's


cdef class Connection(Stream):
    """One connected socket."""

    cdef int call_connection_made(self) except -1:
        """The protocol is told that it has a connection, and receives from now on."""
        self.core.connect_protocol(self.protocol, self.transport)
        if not self.paused and not self.closing and not self.closed:
            self.model.watch(self, RECEIVE)
        if self.waiter is not None:
            waiter, self.waiter = self.waiter, None
            if not waiter.done():
                waiter.set_result(None)
        return 0

    def schedule_connection_made(self, waiter=None):
        """Tells the protocol from the queue, then the waiter."""
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
            return 0        # its bytes are held or with the kernel; sent_later goes on from there
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
                self.fd = -1        # its owner closed it
                self.socket_owns_fd = False
            self.caller_socket = None
        return Stream.detach_socket(self)

    cdef bint closed_by_caller(self) except -1:
        """Whether the caller has closed the socket that it gave: the connection ends, as the number
        of the descriptor may belong to another file by now."""
        if self.closed or self.caller_socket.fileno() == self.fd:
            return False
        self.force_close(OSError(EBADF, os.strerror(EBADF)))
        return True

    def __dealloc__(self):
        # Dropped while open: its number is about to be free.
        if self.fd >= 0 and self.core is not None and self.fd < self.core.fd_transports_size and \
                self.core.fd_transports[self.fd] == <void *>self:
            self.core.fd_transports[self.fd] = NULL

    # A write is sent at once when no other event of the turn waits for its handler. Else it is held
    # as a parcel until these have run, if that does not take long (may_hold): what many connections
    # write costs less when it is sent one after the other, as their peers are woken together, and
    # io_uring takes it all in one call. And who writes several times a turn, as web servers do with
    # a head and a body, would pay for a packet each: such a connection's next writes are corked,
    # which is to say made one parcel at the end of the turn, until there is one that comes alone.

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
        elif self.last_write_turn == self.core.turns:
            self.bursty = True
        else:
            self.last_write_turn = self.core.turns
        Stream.write(self, data)

    def writelines(self, list_of_data):
        if self.caller_socket is not None and self.closed_by_caller():
            return
        if self.corked:
            self.flush_corked(b"".join([bytes_of(part) for part in list_of_data]))
        else:
            Stream.writelines(self, list_of_data)

    cdef int flush_corked(self, bytes data) except -1:
        """Send what is corked and `data`, now.

        The protocol is told of flow control after that, as what it writes then comes last.
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
        elif self.outgoing is None:
            self.outgoing = [self.deferred_write]
            self.first = self.offset = 0
        self.deferred_write = None
        self.flush()
        if (self.unsent_size or self.protocol_paused) and not self.closed:
            self.watch_writable()
        return 0

    cdef bint defer_write(self, data) except -1:
        """Holds the data as a parcel of its own; False if it has to go another way."""
        cdef bytes deferred_write
        cdef Py_ssize_t n
        if self.unsent_size or self.write_state or self.closed or self.closing:
            # Nothing is held yet, so what is kept is a parcel on its way: a second write.
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
        # A socket that its owner may close before the turn ends is looked at once more then.
        if self.caller_socket is not None or not self.model.send_later(
                self, PyBytes_AS_STRING(deferred_write), n):
            self.corked = True
            self.core.corked.append(self)
        return True

    cdef bint cork(self, data) except -1:
        """Holds the data behind what is held already; False if it has to go another way."""
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
        if self.deferred_write is not None and self.outgoing is None:
            self.outgoing = [self.deferred_write]
            self.first = self.offset = 0
        return Stream.append_outgoing(self, data, offset)

    cdef bint coalesce(self) except -1:
        """Makes one parcel of all that is held; False if there is nothing."""
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
        """Sends what is held; the result, if sent_later has to deal with it, or 0."""
        cdef int sent = <int>self.model.send(self, PyBytes_AS_STRING(self.deferred_write),
                                             self.unsent_size)
        return 0 if self.sent_all(sent) else sent

    cdef int uncork(self) except -1:
        """Sends what is held, now."""
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
            self.bursty = False     # it was the only write of this turn
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
        if self.outgoing is None:
            self.outgoing = [deferred_write]
            self.first = self.offset = 0
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
        return self.unsent_size - PyBytes_GET_SIZE(self.deferred_write)  # it is on its way

    # For sendfile, which needs the descriptor to itself.

    def begin_sendfile(self):
        """A future, done when all that was written is sent; until `end_sendfile` nothing may be."""
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
        """A future, done when the socket can take more data.

        Only between `begin_sendfile` and `end_sendfile`. It fails with
        ConnectionError when the connection ends first.
        """
        self.empty_waiter = self.core.create_future()
        if self.closed or self.closing:
            self.empty_waiter.set_exception(ConnectionError("the connection was closed"))
        else:
            self.model.watch(self, SEND)
        return self.empty_waiter

    def end_sendfile(self):
        """Writing is possible again."""
        self.empty_waiter = None
        if self.watched & SEND and not self.unsent_size:
            self.model.unwatch(self, SEND)
        if self.write_state == SENDFILE:
            self.write_state = 0
        if not self.closed:
            self.core.set_fd_transport(self.fd, self)

    # What it tells of itself.

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
        """Ends now; connection_lost will be told the error."""
        self.uncork()
        self.force_close(error)

    def get(self, name, default=None):
        """As get_extra_info: it stands for the dict `_extra` of asyncio's transports."""
        return self.get_extra_info(name, default)

    @property
    def reading_paused(self):
        """Whether pause_reading was called last."""
        return self.paused & PAUSED != 0

    @property
    def event_loop(self):
        """The loop it belongs to."""
        return self.core

    @property
    def writing_paused(self):
        """Whether the protocol was told pause_writing."""
        return self.protocol_paused != 0

    @property
    def at_eof(self):
        """Whether the peer has ended its sending side."""
        return self.eof_delivered

    @property
    def connection_lost_called(self):
        """Whether connection_lost was called; set_protocol may have been called since."""
        return self.protocol is None or self.transport is None

    def close_unreferenced(self, transport):
        """Ends without a word, as nobody holds the transport any more."""
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
    """A connection on a descriptor that it takes over, with a transport for its protocol.

    `context`: in which the protocol's methods are called; None: a copy of the current one.
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
    """Make a connection on a Python socket, which it takes over.

    `schedule_connection_made` then starts it.

    `from_caller`: others hold the socket object too, and may close it.
    """
    cdef Connection connection
    cdef int fd = sock.fileno()
    cdef bint tcp = sock.proto == 6 or (sock.proto == 0 and sock.family in INTERNET)
    core._ensure_fd_no_transport(fd)
    connection = new_connection(core, fd, protocol, server, tcp, context)
    connection.extra = {"socket": TransportSocket(sock)}
    connection.socket_owns_fd = True
    if from_caller:
        connection.caller_socket = sock
    return connection


cdef bytes small_copy(data):
    """What is in a buffer of the caller's, if it is worth a copy; or None."""
    cdef Py_buffer view
    cdef bytes copy = None
    if type(data) is not memoryview and type(data) is not bytearray:
        return None
    PyObject_GetBuffer(data, &view, PyBUF_FULL_RO)
    if view.len <= MAX_COPIED and PyBuffer_IsContiguous(&view, b"C"):
        copy = PyBytes_FromStringAndSize(<char *>view.buf, view.len)
    PyBuffer_Release(&view)
    return copy
