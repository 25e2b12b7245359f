"""The compiled half of the event loop: scheduling, descriptors, and the transports' descriptors.

`noria.aio.asyncio_base` puts it in front of asyncio's own event loop class, which has everything
that runs once for a connection, a process or a signal.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_RawFree, PyMem_RawRealloc
from libc.string cimport memset

from noria._core.aio.descriptor cimport Descriptor, receive_now
from noria._core.aio.scheduler cimport Scheduler
from noria._core.contract cimport READABLE, WRITABLE
from noria._core.loop cimport Loop
from noria._core.stream cimport SENDFILE, Stream
from noria._core.sys cimport MSG_DONTWAIT, MSG_NOSIGNAL, c_send, errno, ssize_t

import asyncio
import socket

cdef object Socket = socket.socket
cdef object Future = asyncio.Future


cdef class Core(Scheduler):
    """The methods of the event loop that run often."""

    def __cinit__(self, *args, **kwargs):
        self.descriptors = {}

    def __dealloc__(self):
        PyMem_RawFree(self.fd_transports)

    def close_core(self):
        """Close the model and drop all callbacks; the loop cannot be used afterwards."""
        cdef Descriptor descriptor
        Loop.close(self)
        for descriptor in self.descriptors.values():
            descriptor.clear()
        self.descriptors.clear()
        self.loop_option = None

    # Calls of protocols.

    cdef int connect_protocol(self, object protocol, object transport) except -1:
        """Call connection_made; report its exception and keep the connection, as asyncio does."""
        try:
            protocol.connection_made(transport)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            if self.model.recorder != NULL:
                self.record_exception(error)
            self.report_exception(f"Exception in callback {protocol!r}.connection_made", error,
                                  {"transport": transport, "protocol": protocol})
        return 0

    cdef int notify_flow_control(self, object protocol, object transport, bint full) except -1:
        """Call pause_writing or resume_writing; report its exception, as asyncio does."""
        try:
            if full:
                protocol.pause_writing()
            else:
                protocol.resume_writing()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            if self.model.recorder != NULL:
                self.record_exception(error)
            self.report_exception(f"protocol.{'pause' if full else 'resume'}_writing() failed",
                                  error, {"transport": transport, "protocol": protocol})
        return 0

    # Readers and writers.

    def add_reader(self, fd, callback, *args):
        """Call while the descriptor is readable. As AbstractEventLoop.add_reader."""
        self._ensure_fd_no_transport(fd)
        self.watch_fd(fd, READABLE, callback, args, None)

    def add_writer(self, fd, callback, *args):
        """Call while the descriptor is writable. As AbstractEventLoop.add_writer."""
        self._ensure_fd_no_transport(fd)
        self.watch_fd(fd, WRITABLE, callback, args, None)

    def remove_reader(self, fd):
        """Undo add_reader; return whether there was one. As AbstractEventLoop.remove_reader."""
        self._ensure_fd_no_transport(fd)
        return self.unwatch_fd(fd, READABLE)

    def remove_writer(self, fd):
        """Undo add_writer; return whether there was one. As AbstractEventLoop.remove_writer."""
        self._ensure_fd_no_transport(fd)
        return self.unwatch_fd(fd, WRITABLE)

    # asyncio's own transports (pipes) call these.

    def _add_reader(self, fd, callback, *args, context=None):
        return self.watch_fd(fd, READABLE, callback, args, context)

    def _add_writer(self, fd, callback, *args, context=None):
        return self.watch_fd(fd, WRITABLE, callback, args, context)

    def _remove_reader(self, fd):
        return self.unwatch_fd(fd, READABLE)

    def _remove_writer(self, fd):
        return self.unwatch_fd(fd, WRITABLE)

    def watch_fd(self, fileobj, int interest, callback, tuple args, context):
        cdef int fd = number_of(fileobj)
        cdef Descriptor descriptor
        if self.closed:
            self.check_closed()
        handle = asyncio.Handle(callback, args, self, context) if self.debugging else \
            self.make_handle(callback, args, False, context)
        descriptor = self.descriptor(fd)
        try:
            descriptor.add(interest, handle)
        except BaseException:
            if not descriptor.watched:
                del self.descriptors[fd]
            raise
        if descriptor.fileobj is None and not isinstance(fileobj, int):
            descriptor.fileobj = fileobj
        return handle

    cdef Descriptor descriptor(self, int fd):
        cdef Descriptor descriptor = self.descriptors.get(fd)
        if descriptor is None:
            descriptor = Descriptor.__new__(Descriptor)
            descriptor.fd = fd
            descriptor.level_triggered = True
            descriptor.core = self
            descriptor.model = self.model
            descriptor.keeps_watch = self.model.close_unwatches
            self.descriptors[fd] = descriptor
        return descriptor

    def unwatch_fd(self, fileobj, int interest):
        cdef int fd
        cdef bint removed
        cdef Descriptor descriptor
        if self.closed:
            return False
        try:
            fd = number_of(fileobj)
        except ValueError:
            fd = self.registered_number(fileobj)
            if fd < 0:
                raise
        descriptor = self.descriptors.get(fd)
        if descriptor is None:
            return False
        removed = descriptor.remove(interest)
        # The kernel may have dropped the other interest, if the descriptor was closed.
        if not descriptor.watched and descriptor.reader is None and descriptor.writer is None:
            del self.descriptors[fd]
        return removed

    cdef int registered_number(self, object fileobj) except? -1:
        """The descriptor that the object had when it was registered, or -1."""
        cdef Descriptor descriptor
        for descriptor in self.descriptors.values():
            if descriptor.fileobj is fileobj:
                return descriptor.fd
        return -1

    def discard_descriptor(self, int fd):
        """Drop a descriptor that the model no longer watches."""
        self.descriptors.pop(fd, None)

    async def sock_recv(self, sock, n):
        """Receive at most `n` bytes from a non-blocking socket. As AbstractEventLoop.sock_recv."""
        cdef Descriptor descriptor
        cdef Py_ssize_t max_bytes = n
        cdef int fd
        if type(sock) is not Socket or max_bytes <= 0 or self.debugging:
            return await self.receive_bytes(sock, n)
        fd = sock.fileno()
        data = receive_now(self.model, fd, max_bytes)
        if data is not None:
            return data
        self._ensure_fd_no_transport(fd)
        future = Future(loop=self)
        descriptor = self.descriptor(fd)
        descriptor.start_receive(sock, future, max_bytes)
        try:
            return await future
        finally:
            if descriptor.receiver is future and not self.closed:
                descriptor.clear_receiver()

    async def sock_sendall(self, sock, data):
        """Send all of `data`. As AbstractEventLoop.sock_sendall."""
        cdef ssize_t sent
        cdef int fd
        if type(sock) is not Socket or type(data) is not bytes or self.debugging:
            return await self.send_all(sock, data)
        fd = sock.fileno()
        self.model.counters.sends += 1
        sent = c_send(fd, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data),
                      MSG_DONTWAIT | MSG_NOSIGNAL)
        self.model.count_send(fd, sent if sent >= 0 else -errno)
        if sent == PyBytes_GET_SIZE(data):
            return None
        # Send the rest, or raise the error.
        return await self.send_all(sock, memoryview(data)[sent:] if sent > 0 else data)

    def watched(self, int fd):
        """The events that the descriptor is watched for: 1 reading, 2 writing.

        Raises KeyError if it is not watched.
        """
        cdef Descriptor descriptor = self.descriptors[fd]
        return ((1 if descriptor.watched & READABLE else 0)
                | (2 if descriptor.watched & WRITABLE else 0))

    def _ensure_fd_no_transport(self, fd):
        # A file object that is closed (-1) may still be registered: see unwatch_fd.
        cdef object number = fd if isinstance(fd, int) else fileno_of(fd)
        transport = self.fd_transport(number)
        if transport is None and self.has_selector_transports:
            transport = self._transports.get(number)
        if transport is not None and not transport.is_closing():
            raise RuntimeError(f"File descriptor {fd!r} is used by transport {transport!r}")

    def channels(self):
        """The open channels of transports: a list. Any thread may call it."""
        cdef Py_ssize_t fd
        return [<object>self.fd_transports[fd] for fd in range(self.fd_transports_size)
                if self.fd_transports[fd] != NULL]

    cdef object fd_transport(self, int fd):
        """The channel that uses the descriptor; None while sendfile uses it instead."""
        cdef object channel
        if not 0 <= fd < self.fd_transports_size or self.fd_transports[fd] == NULL:
            return None
        channel = <object>self.fd_transports[fd]
        if isinstance(channel, Stream) and (<Stream>channel).write_state == SENDFILE:
            return None
        return channel

    cdef int set_fd_transport(self, int fd, object connection) except -1:
        cdef Py_ssize_t new_size
        cdef void **fd_transports
        if fd >= self.fd_transports_size:
            new_size = max(fd + 1, 2 * self.fd_transports_size, 64)
            fd_transports = <void **>PyMem_RawRealloc(self.fd_transports, new_size * sizeof(void *))
            if fd_transports == NULL:
                raise MemoryError
            memset(&fd_transports[self.fd_transports_size], 0,
                   (new_size - self.fd_transports_size) * sizeof(void *))
            self.fd_transports = fd_transports
            self.fd_transports_size = new_size
        self.fd_transports[fd] = NULL if connection is None else <void *>connection
        return 0


cdef int number_of(object fileobj) except -1:
    """The descriptor of an int or an object with fileno(). Raises ValueError."""
    cdef object number = fileobj if isinstance(fileobj, int) else fileno_of(fileobj)
    if number < 0:
        raise ValueError(f"Invalid file descriptor: {number}")
    return number


cdef object fileno_of(object fileobj):
    """The object's fileno(). Raises ValueError if it has none."""
    try:
        return int(fileobj.fileno())
    except (AttributeError, TypeError, ValueError):
        raise ValueError(f"Invalid file object: {fileobj!r}") from None
