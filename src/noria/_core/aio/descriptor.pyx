"""A descriptor that the program watches with add_reader, add_writer or sock_recv.

After a sock_recv, a model whose kernel drops closed descriptors (epoll) keeps the watch, as another
sock_recv mostly follows and each registration costs two system calls. An event without a reader or
a receiver ends the watch. The descriptor may be closed and its number reused meanwhile, so the
watch is valid only for the socket object that it was started for. The other models stop watching
at once: it costs no system call, and a closed descriptor would be an error for select and poll.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize

from noria._core.contract cimport READABLE, WRITABLE, Channel, Model
from noria._core.loop cimport Loop
from noria._core.recorder.events cimport RecordKind
from noria._core.recorder.record cimport record_transfer
from noria._core.sys cimport EAGAIN, EINTR, MSG_DONTWAIT, errno, recv
from noria._core.timers cimport Handle

import os
import weakref

cdef enum:
    RECEIVE_BUFFER_SIZE = 256 * 1024

# All loops share it: no other code runs between a receive into it and the copy out of it. The
# model's own buffer will not do, as sock_recv may be called while a protocol reads from that one.
cdef char receive_buffer[RECEIVE_BUFFER_SIZE]


cdef object receive_now(Model model, int fd, Py_ssize_t n):
    """Receive at most `n` bytes without waiting; None if there are none. Raises OSError."""
    cdef ssize_t got
    cdef int error
    while True:
        model.counters.receives += 1
        got = recv(fd, receive_buffer, min(n, <Py_ssize_t>RECEIVE_BUFFER_SIZE), MSG_DONTWAIT)
        error = errno
        if model.recorder != NULL:
            record_transfer(model.recorder, RecordKind.RECEIVE, fd, got if got >= 0 else -error)
        if got >= 0:
            model.counters.bytes_in += got
            return PyBytes_FromStringAndSize(receive_buffer, got)
        if error == EAGAIN:
            model.counters.empty_receives += 1
            return None
        if error != EINTR:
            raise OSError(error, os.strerror(error))


def run_asyncio_handle(handle):
    """Run a handle of debug mode, which is asyncio's own and reports its callback's exception."""
    if not handle._cancelled:
        handle._run()


cdef class Descriptor(Channel):
    """Calls its reader and its writer while the descriptor is ready (level-triggered)."""

    cdef int add(self, int interest, object handle) except -1:
        former = self.reader if interest == READABLE else self.writer
        if former is not None or self.watched & interest:
            # The number may refer to another file by now: register it again.
            self.remove(interest)
        self.model.watch(self, interest)
        if interest == READABLE:
            self.reader = handle
        else:
            self.writer = handle
        return 0

    cdef int clear(self) noexcept:
        for handle in (self.reader, self.writer):
            if type(handle) is Handle:
                (<Handle>handle).clear()
        self.reader = self.writer = self.receiver = self.fileobj = None
        return 0

    cdef bint remove(self, int interest) except -1:
        cdef object handle
        if interest == READABLE:
            handle, self.reader = self.reader, None
        else:
            handle, self.writer = self.writer, None
        if self.watched & interest:
            self.model.unwatch(self, interest)
        if self.reader is None and self.writer is None:
            self.fileobj = None
        if handle is None:
            return False
        handle.cancel()
        return True

    cdef int ready(self, int mask) except -1:
        cdef object writer = self.writer if mask & WRITABLE else None
        if mask & READABLE:
            if self.reader is not None:
                self.call_handle(self.reader)
            elif self.receiver is not None:
                self.receive()
            else:
                self.socket_ref = None
                self.model.unwatch(self, READABLE)
        # The reader may have removed the writer.
        if writer is not None and writer is self.writer:
            self.call_handle(writer)
        return 0

    cdef int failed(self, int error) except -1:
        # The descriptor was closed while it was watched. The callbacks are called once, as asyncio
        # calls them for POLLNVAL: their system call fails with EBADF, which ends a wait for it.
        cdef object reader = self.reader, writer = self.writer, receiver = self.receiver
        cdef object problem = OSError(error, os.strerror(error))
        self.reader = self.writer = self.receiver = self.fileobj = self.socket_ref = None
        self.core.discard_descriptor(self.fd)
        if receiver is not None and not receiver.done():
            receiver.set_exception(problem)
        if reader is None and writer is None:
            return 0
        self.core.call_exception_handler({
            "message": f"descriptor {self.fd} was closed while the loop watched it: call "
                       "remove_reader() and remove_writer() before closing",
            "exception": problem,
        })
        for handle in (reader, writer):
            if handle is not None:
                self.call_handle(handle)
                handle.cancel()
        return 0

    cdef int start_receive(self, object sock, object future, Py_ssize_t max_bytes) except -1:
        """Have the future receive the next bytes."""
        self.receiver = future
        self.max_bytes = max_bytes
        if self.socket_ref is None or self.socket_ref() is not sock:
            if self.watched & READABLE:
                self.model.unwatch(self, READABLE)
            self.socket_ref = weakref.ref(sock)
        if not self.watched & READABLE:
            self.model.watch(self, READABLE)
        return 0

    cdef int receive(self) except -1:
        cdef object future = self.receiver
        if future.done():
            return self.clear_receiver()
        try:
            data = receive_now(self.model, self.fd, self.max_bytes)
        except OSError as error:
            self.clear_receiver()
            future.set_exception(error)
            return 0
        if data is not None:
            self.clear_receiver()
            future.set_result(data)
        return 0

    cdef int clear_receiver(self) except -1:
        self.receiver = None
        if not self.keeps_watch and self.reader is None and self.watched & READABLE:
            self.socket_ref = None
            self.model.unwatch(self, READABLE)
        return 0

    cdef int call_handle(self, object handle) except -1:
        if type(handle) is not Handle:
            run_asyncio_handle(handle)
            return 0
        try:
            (<Handle>handle).handle(NULL)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            if self.model.recorder != NULL:
                (<Loop>self.core).record_exception(error)
            self.core.call_exception_handler({
                "message": f"Exception in callback {handle!r}",
                "exception": error,
                "handle": handle,
            })
        return 0

    def __repr__(self):
        return f"<Descriptor fd={self.fd} reader={self.reader!r} writer={self.writer!r}>"
