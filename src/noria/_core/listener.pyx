"""A listening socket: makes a stream and a protocol of each connection that arrives."""

from noria._core.contract cimport ACCEPT, Channel
from noria._core.loop cimport Loop
from noria._core.stream cimport StreamSet, Stream
from noria._core.sys cimport (
    ECONNABORTED, EMFILE, ENFILE, ENOBUFS, ENOMEM, EPROTO, c_close,
)

import logging
import os
import socket

from noria.errors import NoriaError

log = logging.getLogger("noria")

# How long a listener that found no free descriptor rests, if none is closed before, in seconds.
REST = 0.25


cdef class Listener(Channel):
    """Accepts on one listening socket, whose descriptor it takes over, until closed."""

    def __init__(self, Loop loop, sock, factory, StreamSet group):
        self.loop = loop
        self.factory = factory
        self.group = group
        self.tcp = sock.family in (socket.AF_INET, socket.AF_INET6)
        self.address = sock.getsockname()
        self.model = loop.model
        self.fd = sock.detach()
        try:
            self.model.watch(self, ACCEPT)
        except BaseException:
            c_close(self.fd)
            self.fd = -1
            raise

    @property
    def sockname(self):
        """The address it listens on, as socket.getsockname gives it."""
        return self.address

    cdef int accepted(self, int fd) except -1:
        cdef Stream stream
        self.warned = False
        try:
            protocol = self.factory()
        except Exception:
            self.model.kernel_close(fd)
            log.exception("%r raised: the connection is closed", self.factory)
            return 0
        stream = Stream.__new__(Stream)
        stream.open(self.loop, fd, protocol, self.group, self.tcp)
        try:
            stream.start()
        except NoriaError as error:
            # A limit of the model, not a fault of the protocol: no traceback, but what to do.
            log.error("%s; this connection is closed", error.args[len(error.args) - 1])
            stream.force_close(error)
        except Exception as error:
            stream.handle_error(error)
        return 0

    cdef int failed(self, int error) except -1:
        if error in (ECONNABORTED, EPROTO):
            return 0    # that client has left already
        if error not in (EMFILE, ENFILE, ENOBUFS, ENOMEM):
            raise OSError(error, os.strerror(error), f"accept on {self.address}")
        if not self.warned:
            self.warned = True
            log.error("accept on %s: %s; waiting for one to be free", self.address,
                      os.strerror(error))
        # Level-triggered, it would be told again at once, for ever: rest until one is free.
        self.model.unwatch(self, ACCEPT)
        self.group.on_descriptor_freed = self.resume
        self.rest = self.loop.call_later(REST, self.resume)
        return 0

    def resume(self):
        """Accepts again after running out of descriptors."""
        if self.rest is not None:
            self.rest.cancel()
            self.rest = None
        if self.fd >= 0 and not self.releasing:
            self.model.watch(self, ACCEPT)

    cdef bint handle_error(self, object error) except -1:
        log.error("accepting on %s failed", self.address, exc_info=error)
        return True

    def close(self):
        """Stops accepting; connections that are open stay."""
        if self.fd >= 0 and not self.releasing:
            if self.rest is not None:
                self.rest.cancel()
                self.rest = None
            self.model.release(self)

    cdef int released(self) except -1:
        if self.fd >= 0:
            self.model.kernel_close(self.fd)
            self.fd = -1
        return 0
