"""A listening socket of an asyncio server."""

from cpython.contextvars cimport (
    PyContext_Copy, PyContext_CopyCurrent, PyContext_Enter, PyContext_Exit,
)
from cpython.version cimport PY_VERSION_HEX

from noria._core.aio.connection cimport Connection, new_connection
from noria._core.aio.core cimport Core
from noria._core.contract cimport ACCEPT
from noria._core.listener cimport AcceptChannel
from noria._core.sys cimport c_close

import os
import socket
from asyncio import constants
from asyncio.trsock import TransportSocket

cdef tuple INET_FAMILIES = (socket.AF_INET, socket.AF_INET6)


cdef class Acceptor(AcceptChannel):
    """Accepts clients and makes a protocol and a connection for each, until `stop`.

    It does not own the socket. `serve_tls`, if not None, is called with the factory, the client's
    socket and the server instead. Each client is served in a copy of `context`, by default a copy
    of the current one.
    """

    cdef Core core
    cdef object sock
    cdef object server
    cdef object serve_tls
    cdef object context
    cdef bint tcp

    def __init__(self, Core core, sock, factory, server, serve_tls, context=None):
        self.core = core
        self.loop = core
        self.sock = sock
        self.factory = factory
        self.server = server
        self.serve_tls = serve_tls
        self.context = PyContext_CopyCurrent() if context is None else context
        self.tcp = sock.family in INET_FAMILIES
        self.model = core.model
        self.fd = sock.fileno()
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
        connection = new_connection(self.core, fd, protocol, self.server, self.tcp,
                                    context if PY_VERSION_HEX >= 0x030F0000 else None)
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
