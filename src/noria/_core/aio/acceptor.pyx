"""A listening socket of an asyncio server."""

from cpython.contextvars cimport (
    PyContext_Copy, PyContext_CopyCurrent, PyContext_Enter, PyContext_Exit,
)
from cpython.version cimport PY_VERSION_HEX

from noria._core.aio.client_count cimport ClientCount
from noria._core.aio.connection cimport Connection, new_connection
from noria._core.aio.core cimport Core
from noria._core.contract cimport ACCEPT
from noria._core.listener cimport AcceptChannel
from noria._core.sys cimport IPPROTO_TCP, TCP_NODELAY, c_close, getsockopt, setsockopt, socklen_t

import os
import socket
from asyncio import constants
from asyncio.trsock import TransportSocket

cdef extern from "<netinet/tcp.h>" nogil:
    int TCP_INFO, TCP_LISTEN
    struct tcp_info:
        unsigned char tcpi_state
        unsigned tcpi_unacked

cdef enum:
    # connections that another core may be completing while the backlog is read
    MAX_COMPLETING = 64

cdef tuple INET_FAMILIES = (socket.AF_INET, socket.AF_INET6)


cdef class Acceptor(AcceptChannel):
    """Accepts clients and makes a protocol and a connection for each, until `stop`.

    It does not own the socket. `serve_tls`, if not None, is called with the factory, the client's
    socket and the server instead. Each client is served in a copy of `context`, by default a copy
    of the current one.
    """

    cdef Core core
    cdef object sock
    cdef ClientCount server
    cdef object serve_tls
    cdef object context
    # connections to accept that may not have inherited TCP_NODELAY; -1: all
    cdef Py_ssize_t without_nodelay

    def __init__(self, Core core, sock, factory, server, serve_tls, context=None):
        self.core = core
        self.loop = core
        self.sock = sock
        self.factory = factory
        self.server = server
        self.serve_tls = serve_tls
        self.context = PyContext_CopyCurrent() if context is None else context
        self.model = core.model
        self.fd = sock.fileno()
        if sock.family in INET_FAMILIES:
            self.without_nodelay = inherit_nodelay(self.fd)
        self.model.watch(self, ACCEPT)

    cdef int accepted(self, int fd) except -1:
        cdef object context = PyContext_Copy(self.context)
        PyContext_Enter(context)
        try:
            if self.serve_tls is not None:
                self.serve_tls(self.factory, socket.socket(fileno=fd), self.server)
            else:
                self.connect_client(fd, context)
        finally:
            PyContext_Exit(context)
        return 0

    cdef int connect_client(self, int fd, object context) except -1:
        cdef Connection connection
        try:
            protocol = self.factory()
        except (KeyboardInterrupt, SystemExit):
            c_close(fd)
            raise
        except BaseException as error:
            c_close(fd)
            self.core.report_exception("Error on transport creation for incoming connection",
                                       error, {})
            return 0
        # From Python 3.15 on the connection runs in its factory's context, not in a copy.
        connection = new_connection(self.core, fd, protocol, self.server, self.without_nodelay,
                                    context if PY_VERSION_HEX >= 0x030F0000 else None)
        if self.without_nodelay > 0:
            self.without_nodelay -= 1
        try:
            connection.call_connection_made()
        except Exception as error:
            # A limit of the model, such as select's descriptors below 1024.
            self.core.report_exception("Error on transport creation for incoming connection", error,
                                       {"transport": connection.transport, "protocol": protocol})
            connection.force_close(error)
        return 0

    cdef int report_exhausted(self, int error) except -1:
        self.retry_delay = constants.ACCEPT_RETRY_DELAY
        self.core.report_exception("socket.accept() out of system resource",
                                   OSError(error, os.strerror(error)),
                                   {"socket": TransportSocket(self.sock)})
        return 0

    cdef bint handle_error(self, object error) except -1:
        self.core.report_exception(f"accepting on {self.sock!r} failed", error, {})
        return True

    def stop(self):
        """Stop accepting; the socket stays open."""
        if self.releasing:
            return
        self.cancel_retry()
        self.model.release(self)
        # A pending request of the kernel would keep the socket listening after its close.
        self.model.flush_closes()


cdef Py_ssize_t inherit_nodelay(int listener) noexcept:
    """Set TCP_NODELAY on a listening socket, whose new connections then inherit it (tcp(7)).

    Returns the number of connections to accept until all others have it: those in the backlog,
    whose number the kernel reports as tcpi_unacked. -1 if it is unknown.
    """
    cdef int one = 1
    cdef tcp_info info
    cdef socklen_t length = sizeof(info)
    if setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) < 0 \
            or getsockopt(listener, IPPROTO_TCP, TCP_INFO, &info, &length) < 0 \
            or info.tcpi_state != TCP_LISTEN:
        return -1
    return <Py_ssize_t>info.tcpi_unacked + MAX_COMPLETING


def transports_of(Core core, server):
    """The transports of a server's connections that have not ended."""
    cdef Py_ssize_t fd
    cdef Connection connection
    cdef list found = []
    for fd in range(core.fd_transports_size):
        if core.fd_transports[fd] == NULL:
            continue
        channel = <object>core.fd_transports[fd]
        if type(channel) is not Connection:
            continue
        connection = <Connection>channel
        if connection.server is server and connection.transport is not None:
            found.append(connection.transport)
    return found
