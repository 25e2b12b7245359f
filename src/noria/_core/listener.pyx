"""Listening sockets: accepting connections, and making a stream and a protocol for each."""

from noria._core.contract cimport ACCEPT, Channel
from noria._core.loop cimport Loop
from noria._core.stream cimport Stream
from noria._core.sys cimport (
    ECONNABORTED, EMFILE, ENFILE, ENOBUFS, ENOMEM, EPROTO, c_close,
)
from noria._core.transport cimport StreamSet

import logging
import os
import socket

from noria.errors import NoriaError

log = logging.getLogger("noria")

# Seconds until accepting is retried after accept(2) has found no free descriptor.
ACCEPT_RETRY_DELAY = 0.25


cdef class AcceptChannel(Channel):
    """A listening socket. Subclasses implement `accepted` and `report_exhausted`."""

    cdef int failed(self, int error) except -1:
        """Handle an error of accept(2).

        Errors of one connection are ignored. Without free descriptors or memory, accepting is
        retried after `retry_delay`: level-triggered readiness would be reported again at once.
        """
        if error in (ECONNABORTED, EPROTO):
            return 0
        if error not in (EMFILE, ENFILE, ENOBUFS, ENOMEM):
            raise OSError(error, os.strerror(error), "accept")
        self.report_exhausted(error)
        self.model.unwatch(self, ACCEPT)
        self.retry_timer = self.loop.call_later(self.retry_delay, self.resume)
        return 0

    cdef int report_exhausted(self, int error) except -1:
        """Report that accept(2) failed for want of descriptors or memory."""
        raise NotImplementedError

    cdef int cancel_retry(self) except -1:
        if self.retry_timer is not None:
            self.retry_timer.cancel()
            self.retry_timer = None
        return 0

    def resume(self):
        """Accept again after descriptors ran out."""
        self.cancel_retry()
        if self.fd >= 0 and not self.releasing:
            self.model.watch(self, ACCEPT)


cdef class Listener(AcceptChannel):
    """Accepts on a listening socket, which it takes over, until it is closed."""

    def __init__(self, Loop loop, sock, factory, StreamSet group):
        self.loop = loop
        self.factory = factory
        self.group = group
        self.retry_delay = ACCEPT_RETRY_DELAY
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
        """The address that it listens on, as socket.getsockname returns it."""
        return self.address

    cdef int accepted(self, int fd) except -1:
        cdef Stream stream
        self.exhausted = False
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
            # A limit of the model, not an error of the protocol: the message says what to do.
            log.error("%s; this connection is closed", error.args[len(error.args) - 1])
            stream.force_close(error)
        except Exception as error:
            stream.handle_error(error)
        return 0

    cdef int report_exhausted(self, int error) except -1:
        if not self.exhausted:
            self.exhausted = True
            log.error("accept on %s: %s; accepting resumes when a connection closes, or in %g s",
                      self.address, os.strerror(error), self.retry_delay)
        self.group.on_descriptor_freed = self.resume
        return 0

    cdef bint handle_error(self, object error) except -1:
        log.error("accepting on %s failed", self.address, exc_info=error)
        return True

    def close(self):
        """Stop accepting; open connections stay open."""
        if self.fd >= 0 and not self.releasing:
            self.cancel_retry()
            self.model.release(self)

    cdef int released(self) except -1:
        if self.fd >= 0:
            self.model.kernel_close(self.fd)
            self.fd = -1
        return 0


def open_stream(Loop loop, int fd, protocol, StreamSet group, bint tcp):
    """Make a stream on a connected socket, which it takes over, and start it."""
    cdef Stream stream = Stream.__new__(Stream)
    stream.open(loop, fd, protocol, group, tcp)
    try:
        stream.start()
    except Exception as error:
        stream.handle_error(error)
    return stream
