"""A stream as asyncio has it: with a context, a server it belongs to, and asyncio's manner of
reporting what a protocol raises.

The protocol knows its `face`, a real subclass of asyncio.Transport; what is called for each message
is this object's own.
"""

from cpython.bytes cimport PyBytes_GET_SIZE
from cpython.contextvars cimport PyContext_CopyCurrent, PyContext_Enter, PyContext_Exit

from noria._core.address cimport noria_address
from noria._core.aio.core cimport Core
from noria._core.contract cimport CALL, RECEIVE, Event
from noria._core.stream cimport LENT, Stream
from noria._core.sys cimport getpeername, getsockname, sockaddr, socklen_t

import asyncio
import inspect
import logging
import socket
from asyncio.trsock import TransportSocket

INTERNET = (socket.AF_INET, socket.AF_INET6)

# Which connections a server has is told it since Python 3.13, before that only how many.
cdef bint by_name = len(inspect.signature(asyncio.Server._attach).parameters) > 1

log = logging.getLogger("noria")
import os
cdef bint BATCH = bool(os.environ.get("NORIA_BATCH"))

cdef enum:
    STARTED = 3         # results of its own CALL events, beside those of Stream
    CORK = 16 * 1024    # bytes that are held until the end of a turn at most


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
            if event.kind == CALL and event.result == STARTED:
                self.introduce()
            else:
                Stream.handle(self, event)
        finally:
            PyContext_Exit(context)
        return 0

    cdef int writable(self) except -1:
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
            self.empty_waiter.set_exception(ConnectionError("Connection is closed by peer"))
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
            self.model.release(self)
            if server is not None:
                detach(server, face)
        return 0

    cdef int released(self) except -1:
        if self.fd >= 0 and self.core.owner(self.fd) is self:
            self.core.own(self.fd, None)
        return Stream.released(self)

    def __dealloc__(self):
        # Dropped while open: its number is about to be free.
        if self.fd >= 0 and self.core is not None and self.fd < self.core.seats and \
                self.core.owners[self.fd] == <void *>self:
            self.core.owners[self.fd] = NULL

    # A write is sent at once. But who writes several times a turn, as web servers do with a head
    # and a body, would pay for a packet each: such a connection's next writes go together at the
    # end of the turn, until there is one that comes alone.

    cpdef write(self, data):
        if self.bursty or (BATCH and self.core.left):
            if type(data) is bytes and self.cork(data):
                return
            self.uncork()
        elif self.wrote == self.core.turns:
            self.bursty = True
        else:
            self.wrote = self.core.turns
        Stream.write(self, data)

    def writelines(self, list_of_data):
        self.uncork()
        Stream.writelines(self, list_of_data)

    cdef bint cork(self, bytes data) except -1:
        """Holds the data; False if it has to go another way."""
        cdef Py_ssize_t n = PyBytes_GET_SIZE(data)
        if n == 0 or self.ending or self.gone or self.leaving or self.backlog + n > CORK:
            return False
        if self.backlog and not self.corked:
            return False        # there is no room in the socket
        if not self.corked:
            self.corked = True
            self.core.corked.append(self)
        self.append(data, 0)
        return True

    cdef int uncork(self) except -1:
        """Sends what is held."""
        if not self.corked:
            return 0
        self.corked = False
        if self.gone or not self.backlog:
            return 0
        self.flush()
        if self.backlog and not self.gone:
            self.await_room()
        return 0

    cdef int end_turn(self) except -1:
        if not self.corked:
            return 0
        if self.backlog and len(self.outgoing) - self.first == 1:
            # It was the only write of this turn: the next goes at once again.
            self.bursty = False
        PyContext_Enter(self.context)
        try:
            self.uncork()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            self.fault(error)
        finally:
            PyContext_Exit(self.context)
        return 0

    def close(self):
        self.uncork()
        Stream.close(self)

    def abort(self):
        self.uncork()
        Stream.abort(self)

    def write_eof(self):
        self.uncork()
        Stream.write_eof(self)

    def get_write_buffer_size(self):
        self.uncork()
        return self.backlog

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

    def give_back(self):
        """Writing is possible again."""
        self.empty_waiter = None
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
    def lost_protocol(self):
        """Whether connection_lost was called."""
        return self.protocol is None

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
            detach(server, face)


cdef Connection new_connection(Core core, int fd, object protocol, object server, bint tcp):
    """A connection on a descriptor that it takes over, with a transport for its protocol."""
    cdef Connection connection = Connection.__new__(Connection)
    cdef socklen_t length = sizeof(connection.peer)
    connection.core = core
    connection.server = server
    connection.context = PyContext_CopyCurrent()
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
        attach(server, connection.face)
    return connection


def connect(Core core, sock, protocol, extra, server):
    """A connection on a Python socket, which it takes over; `begin` then tells the protocol."""
    cdef Connection connection
    cdef int fd = sock.fileno()
    cdef bint tcp = sock.proto == 6 or (sock.proto == 0 and sock.family in INTERNET)
    core._ensure_fd_no_transport(fd)
    connection = new_connection(core, fd, protocol, server, tcp)
    connection.extra = {"socket": TransportSocket(sock)}
    connection.shared = True
    if extra:
        connection.extra.update(extra)
    return connection


cdef int attach(object server, object transport) except -1:
    if by_name:
        server._attach(transport)
    else:
        server._attach()
    return 0


cdef int detach(object server, object transport) except -1:
    if by_name:
        server._detach(transport)
    else:
        server._detach()
    return 0
