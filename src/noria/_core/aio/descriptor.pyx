"""A descriptor of the user's own: add_reader, add_writer and what waits in sock_recv.

After a sock_recv the descriptor stays watched where the kernel drops a closed descriptor by itself
(epoll), as mostly another sock_recv follows: registering each time costs two system calls. An event
that finds no reader and no receiver ends the watch. A number may be closed and used again
meanwhile, so the watch is trusted only for the very socket it was made for. Other models stop at
once, which costs them nothing: select and poll would stumble over a descriptor that was closed.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize

from noria._core.contract cimport READABLE, WRITABLE, Channel, Model
from noria._core.sys cimport EAGAIN, EINTR, MSG_DONTWAIT, errno, recv
from noria._core.timers cimport Handle

import os
import weakref

cdef enum:
    ROOM = 256 * 1024

# Not the model's scratch: a protocol that is being fed from there may call sock_recv. Nothing runs
# between the receive into this memory and the copy out of it, so all loops share it.
cdef char room[ROOM]


cdef object receive_now(Model model, int fd, Py_ssize_t n):
    """At most `n` bytes that are here already, None if there are none; raises OSError."""
    cdef ssize_t got
    while True:
        model.counters.receives += 1
        got = recv(fd, room, min(n, <Py_ssize_t>ROOM), MSG_DONTWAIT)
        if got >= 0:
            return PyBytes_FromStringAndSize(room, got)
        if errno == EAGAIN:
            model.counters.empty_receives += 1
            return None
        if errno != EINTR:
            raise OSError(errno, os.strerror(errno))


def run_own(handle):
    """Runs one of asyncio's own handles, of debug mode, which reports what its callback raises."""
    if not handle._cancelled:
        handle._run()


cdef class Descriptor(Channel):
    """Calls its reader and its writer, in their contexts, for as long as it is ready."""

    cdef int add(self, int interest, object handle) except -1:
        former = self.reader if interest == READABLE else self.writer
        if former is not None or self.watched & interest:
            # The number may belong to another file by now: the kernel is told of it anew.
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
                self.call(self.reader)
            elif self.receiver is not None:
                self.receive()
            else:
                self.of = None
                self.model.unwatch(self, READABLE)
        # The reader may have taken the writer away.
        if writer is not None and writer is self.writer:
            self.call(writer)
        return 0

    cdef int failed(self, int error) except -1:
        # It was closed while it was watched. The callbacks are called once, as asyncio calls them
        # for POLLNVAL: what they try fails with EBADF, and so ends what waits for it.
        cdef object reader = self.reader, writer = self.writer, receiver = self.receiver
        cdef object problem = OSError(error, os.strerror(error))
        self.reader = self.writer = self.receiver = self.fileobj = self.of = None
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
                self.call(handle)
                handle.cancel()
        return 0

    cdef int expect(self, object sock, object future, Py_ssize_t wanted) except -1:
        """The future will have the next bytes that arrive."""
        self.receiver = future
        self.wanted = wanted
        if self.of is None or self.of() is not sock:
            if self.watched & READABLE:
                self.model.unwatch(self, READABLE)
            self.of = weakref.ref(sock)
        if not self.watched & READABLE:
            self.model.watch(self, READABLE)
        return 0

    cdef int receive(self) except -1:
        cdef object future = self.receiver
        if future.done():
            return self.forget_receiver()
        try:
            data = receive_now(self.model, self.fd, self.wanted)
        except OSError as error:
            self.forget_receiver()
            future.set_exception(error)
            return 0
        if data is not None:
            self.forget_receiver()
            future.set_result(data)
        return 0

    cdef int forget_receiver(self) except -1:
        self.receiver = None
        if not self.lasting and self.reader is None and self.watched & READABLE:
            self.of = None
            self.model.unwatch(self, READABLE)
        return 0

    cdef int call(self, object handle) except -1:
        if type(handle) is not Handle:
            run_own(handle)
            return 0
        try:
            (<Handle>handle).handle(NULL)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            self.core.call_exception_handler({
                "message": f"Exception in callback {handle!r}",
                "exception": error,
                "handle": handle,
            })
        return 0

    def __repr__(self):
        return f"<Descriptor fd={self.fd} reader={self.reader!r} writer={self.writer!r}>"
