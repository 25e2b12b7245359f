"""A stream as asyncio has it: with a context, a server it belongs to, and asyncio's manner of
reporting what a protocol raises.

The protocol knows its `face`, a real subclass of asyncio.Transport; what is called for each message
is this object's own.
"""

from cpython.buffer cimport (
    PyBUF_FULL_RO, PyBuffer_IsContiguous, PyBuffer_Release, PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.contextvars cimport PyContext_CopyCurrent, PyContext_Enter, PyContext_Exit

from noria._core.address cimport noria_address
from noria._core.aio.core cimport Core
from noria._core.contract cimport CALL, RECEIVE, SPACE, Event
from noria._core.stream cimport LENT, PAUSED, Stream, bytes_of
from noria._core.sys cimport EAGAIN, EBADF, EINTR, getpeername, getsockname, sockaddr, socklen_t

import logging
import os
import socket
from asyncio.trsock import TransportSocket

INTERNET = (socket.AF_INET, socket.AF_INET6)

log = logging.getLogger("noria")

cdef enum:
    STARTED = 3         # results of its own CALL events, beside those of Stream
    CORK = 16 * 1024    # bytes that are held until the end of a turn at most
    COPIED = 4 * 1024   # of these, in a buffer that is the caller's


cdef class Connection(Stream):
    """One connected socket."""

    cdef int introduce(self) except -1:
        """The protocol is told that it has a connection, and receives from now on."""
        self.core.connect_protocol(self.protocol, self.face)
        if not self.paused and not self.leaving and not self.gone:
            self.model.watch(self, RECEIVE)
        if self.waiter is not None:
            waiter, self.waiter = self.waiter, None
            if not waiter.done():
                waiter.set_result(None)
        return 0

    def begin(self, waiter=None):
        """Tells the protocol from the queue, then the waiter."""
        self.waiter = waiter
        self.model.queue.put(self, CALL, STARTED, NULL)

    cdef int handle(self, Event *event) except -1:
        cdef object context = self.context
        PyContext_Enter(context)
        try:
            if self.given is not None and event.kind != CALL:
                self.closed_by_owner()
            if event.kind == CALL and event.result == STARTED:
                self.introduce()
            else:
                Stream.handle(self, event)
        finally:
            PyContext_Exit(context)
        return 0

    cdef int writable(self) except -1:
        if self.parcel is not None:
            return 0        # its bytes are held or with the kernel; sent_later goes on from there
        Stream.writable(self)
        if self.empty_waiter is not None and not self.backlog and not self.gone:
            if not self.empty_waiter.done():
                self.empty_waiter.set_result(None)
        return 0

    cdef int tell_room(self) except -1:
        return self.core.tell_room(self.protocol, self.face, self.full)

    cdef int vanish(self, object error) except -1:
        Stream.vanish(self, error)
        if self.empty_waiter is not None and not self.empty_waiter.done():
            self.empty_waiter.set_exception(
                ConnectionError("the connection was closed before all data was sent"))
        return 0

    cdef bint fault(self, object error) except -1:
        if self.protocol is None:
            return False
        if isinstance(error, OSError):
            if self.core.debugging:
                log.debug("%r: fatal error on transport", self.face, exc_info=error)
        else:
            self.core.told("Fatal error: a callback of the protocol failed.", error,
                           {"transport": self.face, "protocol": self.protocol})
        self.vanish(error)
        return True

    cdef int lose(self) except -1:
        cdef object face = self.face
        cdef object server = self.server
        if self.protocol is None:
            return 0
        protocol, self.protocol = self.protocol, None
        error, self.error = self.error, None
        self.data_received = self.sink = None
        try:
            protocol.connection_lost(error)
        finally:
            self.face = self.server = None
            self.detach_socket()
            self.model.release(self)
            if server is not None:
                server.detach(face)
        return 0

    cdef int released(self) except -1:
        if self.fd >= 0 and self.core.owner(self.fd) is self:
            self.core.own(self.fd, None)
        self.detach_socket()
        return Stream.released(self)

    cdef int detach_socket(self) except -1:
        if self.given is not None:
            if self.given.fileno() != self.fd:
                if self.core.owner(self.fd) is self:
                    self.core.own(self.fd, None)
                self.fd = -1        # its owner closed it
                self.shared = False
            self.given = None
        return Stream.detach_socket(self)

    cdef bint closed_by_owner(self) except -1:
        """Whether the caller has closed the socket that it gave: the connection ends, as the number
        of the descriptor may belong to another file by now."""
        if self.gone or self.given.fileno() == self.fd:
            return False
        self.vanish(OSError(EBADF, os.strerror(EBADF)))
        return True

    def __dealloc__(self):
        # Dropped while open: its number is about to be free.
        if self.fd >= 0 and self.core is not None and self.fd < self.core.seats and \
                self.core.owners[self.fd] == <void *>self:
            self.core.owners[self.fd] = NULL

    # A write is sent at once when no other event of the turn waits for its handler. Else it is held
    # as a parcel until these have run, if that does not take long (may_hold): what many connections
    # write costs less when it is sent one after the other, as their peers are woken together, and
    # io_uring takes it all in one call. And who writes several times a turn, as web servers do with
    # a head and a body, would pay for a packet each: such a connection's next writes are corked,
    # which is to say made one parcel at the end of the turn, until there is one that comes alone.

    cpdef write(self, data):
        if self.given is not None and self.closed_by_owner():
            return
        if self.bursty or self.corked:
            if self.core.running and self.cork(data):
                return
            if self.corked:
                self.write_behind(bytes_of(data))
                return
        elif self.core.left:
            if self.post(data):
                return
        elif self.wrote == self.core.turns:
            self.bursty = True
        else:
            self.wrote = self.core.turns
        Stream.write(self, data)

    def writelines(self, list_of_data):
        if self.given is not None and self.closed_by_owner():
            return
        if self.corked:
            self.write_behind(b"".join([bytes_of(part) for part in list_of_data]))
        else:
            Stream.writelines(self, list_of_data)

    cdef int write_behind(self, bytes data) except -1:
        """Send what is corked and `data`, now.

        The protocol is told of flow control after that, as what it writes then comes last.
        """
        if self.ending:
            self.refuse_to_write("write")
        if self.gone or not self.backlog:
            self.uncork()
            Stream.write(self, data)
            return 0
        self.corked = False
        if data:
            self.append(data, 0)
        elif self.outgoing is None:
            self.outgoing = [self.parcel]
            self.first = self.offset = 0
        self.parcel = None
        self.flush()
        if (self.backlog or self.full) and not self.gone:
            self.await_room()
        return 0

    cdef bint post(self, data) except -1:
        """Holds the data as a parcel of its own; False if it has to go another way."""
        cdef bytes parcel
        cdef Py_ssize_t n
        if self.backlog or self.ending or self.gone or self.leaving:
            # Nothing is held yet, so what is kept is a parcel on its way: a second write.
            self.bursty = self.parcel is not None
            return False
        parcel = data if type(data) is bytes else small_copy(data)
        if parcel is None:
            return False
        n = PyBytes_GET_SIZE(parcel)
        if n == 0 or n > CORK or not self.core.may_hold():
            return False
        self.parcel = parcel
        self.backlog = n
        # A socket that its owner may close before the turn ends is looked at once more then.
        if self.given is not None or not self.model.send_later(self, PyBytes_AS_STRING(parcel), n):
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
        if n == 0 or self.ending or self.gone or self.leaving or self.backlog + n > CORK:
            return False
        if not self.corked:
            if self.backlog or not self.core.may_hold():
                return False
            self.corked = True
            self.core.corked.append(self)
        self.append(part, 0)
        return True

    cdef int append(self, bytes data, Py_ssize_t offset) except -1:
        if self.parcel is not None and self.outgoing is None:
            self.outgoing = [self.parcel]
            self.first = self.offset = 0
        return Stream.append(self, data, offset)

    cdef bint seal(self) except -1:
        """Makes one parcel of all that is held; False if there is nothing."""
        self.corked = False
        if self.gone or not self.backlog or (self.given is not None and self.closed_by_owner()):
            self.parcel = None
            return False
        if self.outgoing is not None:
            self.parcel = b"".join(self.outgoing)
            self.outgoing = None
        return True

    cdef int send_parcel(self) noexcept:
        """Sends what is held; the result, if sent_later has to deal with it, or 0."""
        cdef int sent = <int>self.model.send(self, PyBytes_AS_STRING(self.parcel), self.backlog)
        return 0 if self.sent_all(sent) else sent

    cdef int uncork(self) except -1:
        """Sends what is held, now."""
        cdef int sent
        if self.corked and self.seal():
            sent = self.send_parcel()
            if sent:
                self.sent_later(sent)
        return 0

    cdef int end_turn(self) except -1:
        cdef int sent
        if not self.corked:
            return 0
        if self.outgoing is None or len(self.outgoing) == 1:
            self.bursty = False     # it was the only write of this turn
        if not self.seal() or self.model.send_later(self, PyBytes_AS_STRING(self.parcel),
                                                    self.backlog):
            return 0
        sent = self.send_parcel()
        if sent:
            PyContext_Enter(self.context)
            try:
                self.sent_later(sent)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:
                self.fault(error)
            finally:
                PyContext_Exit(self.context)
        return 0

    cdef bint sent_all(self, int result) noexcept:
        if result == self.backlog and not (self.leaving or self.ending or self.full):
            self.parcel = None
            self.backlog = 0
            return True
        return False

    cdef int sent_later(self, int result) except -1:
        cdef bytes parcel = self.parcel
        self.parcel = None
        if self.gone:
            return 0
        if result < 0 and result != -EAGAIN and result != -EINTR:
            return self.vanish(OSError(-result, os.strerror(-result)))
        if self.outgoing is None:
            self.outgoing = [parcel]
            self.first = self.offset = 0
        self.count_sent(max(result, 0))
        if self.backlog:
            return self.await_room()
        return self.writable()

    def close(self):
        self.uncork()
        Stream.close(self)

    def abort(self):
        self.uncork()
        Stream.abort(self)

    def write_eof(self):
        if self.given is not None and self.closed_by_owner():
            return
        self.uncork()
        Stream.write_eof(self)

    def get_write_buffer_size(self):
        self.uncork()
        if self.parcel is None or self.gone:
            return self.backlog
        return self.backlog - PyBytes_GET_SIZE(self.parcel)     # it is on its way

    # For sendfile, which needs the descriptor to itself.

    def lend(self):
        """A future, done when all that was written is sent; until `give_back` nothing may be."""
        if self.empty_waiter is not None:
            raise RuntimeError("Empty waiter is already set")
        if self.ending:
            self.refuse_to_write("sendfile")
        self.uncork()
        self.ending = LENT
        self.empty_waiter = self.core.create_future()
        if not self.backlog:
            self.empty_waiter.set_result(None)
        self.core.own(self.fd, None)
        return self.empty_waiter

    def room(self):
        """A future, done when the socket can take more data; only between `lend` and `give_back`.

        It fails with ConnectionError when the connection ends first.
        """
        self.empty_waiter = self.core.create_future()
        if self.gone or self.leaving:
            self.empty_waiter.set_exception(ConnectionError("the connection was closed"))
        else:
            self.model.watch(self, SPACE)
        return self.empty_waiter

    def give_back(self):
        """Writing is possible again."""
        self.empty_waiter = None
        if self.watched & SPACE and not self.backlog:
            self.model.unwatch(self, SPACE)
        if self.ending == LENT:
            self.ending = 0
        if not self.gone:
            self.core.own(self.fd, self)

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

    def force_close(self, error):
        """Ends now; connection_lost will be told the error."""
        self.uncork()
        self.vanish(error)

    def get(self, name, default=None):
        """As get_extra_info: it stands for the dict `_extra` of asyncio's transports."""
        return self.get_extra_info(name, default)

    @property
    def reading_paused(self):
        """Whether pause_reading was called last."""
        return self.paused & PAUSED != 0

    @property
    def transport(self):
        """What the protocol knows, None once it was told connection_lost."""
        return self.face

    @property
    def event_loop(self):
        """The loop it belongs to."""
        return self.core

    @property
    def writing_paused(self):
        """Whether the protocol was told pause_writing."""
        return self.full != 0

    @property
    def at_eof(self):
        """Whether the peer has ended its sending side."""
        return self.ended

    @property
    def lost_protocol(self):
        """Whether connection_lost was called; set_protocol may have been called since."""
        return self.protocol is None or self.face is None

    def disown(self, face):
        """Ends without a word, as nobody holds the transport any more."""
        if self.fd < 0 or self.closing:
            return
        self.uncork()
        self.gone = self.leaving = True
        self.outgoing = None
        self.backlog = 0
        self.model.release(self)
        server, self.server = self.server, None
        if server is not None:
            server.detach(face)


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
    connection.face = core.make_transport(connection)
    core.own(fd, connection)
    if server is not None:
        server.attach(connection.face)
    return connection


def connect(Core core, sock, protocol, server, bint given, context):
    """A connection on a Python socket, which it takes over; `begin` then tells the protocol.

    `given`: others hold the socket object too, and may close it.
    """
    cdef Connection connection
    cdef int fd = sock.fileno()
    cdef bint tcp = sock.proto == 6 or (sock.proto == 0 and sock.family in INTERNET)
    core._ensure_fd_no_transport(fd)
    connection = new_connection(core, fd, protocol, server, tcp, context)
    connection.extra = {"socket": TransportSocket(sock)}
    connection.shared = True
    if given:
        connection.given = sock
    return connection


cdef bytes small_copy(data):
    """What is in a buffer of the caller's, if it is worth a copy; or None."""
    cdef Py_buffer view
    cdef bytes copy = None
    if type(data) is not memoryview and type(data) is not bytearray:
        return None
    PyObject_GetBuffer(data, &view, PyBUF_FULL_RO)
    if view.len <= COPIED and PyBuffer_IsContiguous(&view, b"C"):
        copy = PyBytes_FromStringAndSize(<char *>view.buf, view.len)
    PyBuffer_Release(&view)
    return copy
