"""Bytes of a socket into a file, past the process's memory: splice(2) by way of a pipe."""

from libc.stdint cimport int64_t

from noria._core.sys cimport EAGAIN, EINTR, EINVAL, EIO, c_close, errno, monotonic_ns

import os

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <errno.h>
    #include <fcntl.h>
    #include <poll.h>
    #include <unistd.h>
    """
    struct pollfd:
        int fd
        short events
        short revents
    short POLLIN
    int F_SETPIPE_SZ
    unsigned SPLICE_F_MOVE, SPLICE_F_NONBLOCK
    int poll(pollfd *fds, unsigned long count, int milliseconds) nogil
    int c_fcntl "fcntl"(int fd, int command, ...) nogil
    Py_ssize_t c_splice "splice"(int source, void *offset, int target, void *offset_too,
                                 size_t count, unsigned flags) nogil
    Py_ssize_t c_read "read"(int fd, void *data, size_t count) nogil
    Py_ssize_t c_write "write"(int fd, const void *data, size_t count) nogil

cdef enum:
    ROOM = 1024 * 1024      # bytes of the pipe: what anybody may have, pipe(7)
    COPIED = 64 * 1024      # bytes that are copied at a time where the file cannot be spliced to

# Why `move` has ended, beside that it moved as much as it was to.
ENOUGH = 0
WAITS = 1       # nothing more has come yet
ENDED = 2       # nothing more will come: the peer has ended its side, or the connection broke
REFUSED = 3     # what comes next has to be received in another way

cdef enum Why:
    _ENOUGH = 0
    _WAITS = 1
    _ENDED = 2
    _REFUSED = 3
    _FAILED = 4


cdef class Splice:
    """A pipe between a socket and a file. One call of `move` at a time; it may be in a thread.

    A call waits `patience` milliseconds for the socket, in all.
    """

    cdef int into, out, patience
    cdef bint copies            # the file takes nothing from a pipe

    def __cinit__(self, int patience):
        self.patience = patience
        self.into = self.out = -1
        self.out, self.into = os.pipe()     # which are not inherited
        # Where the user has too many large pipes already, it stays as it is.
        c_fcntl(self.into, F_SETPIPE_SZ, ROOM)

    def move(self, int source, int target, Py_ssize_t most):
        """Puts at most so many bytes of the socket `source` into the file `target`, where its
        offset stands.

        Gives (bytes, why it ended). Raises OSError of the file: what had come of the socket then
        may be lost.
        """
        cdef Py_ssize_t moved = 0
        cdef Why why
        with nogil:
            why = self.run(source, target, most, &moved)
        if why == _FAILED:
            error = errno or EIO
            raise OSError(error, os.strerror(error))
        return moved, <int>why

    cdef Why run(self, int source, int target, Py_ssize_t most, Py_ssize_t *moved) noexcept nogil:
        cdef pollfd ready
        cdef Py_ssize_t n
        cdef int64_t now, latest = 0
        cdef bint waited = False
        ready.fd, ready.events = source, POLLIN
        while moved[0] < most:
            n = c_splice(source, NULL, self.into, NULL, min(most - moved[0], <Py_ssize_t>ROOM),
                         SPLICE_F_MOVE | SPLICE_F_NONBLOCK)
            if n > 0:
                waited = False
                if self.pour(target, n) < 0:
                    return _FAILED
                moved[0] += n
            elif n == 0:
                return _ENDED
            elif errno == EAGAIN:
                # The pipe is empty, so it is the socket. What poll sees and splice does not is
                # urgent data, which only recv steps over.
                if waited:
                    return _REFUSED
                now = monotonic_ns()
                if latest == 0:
                    latest = now + self.patience * <int64_t>1000000
                if now >= latest:
                    return _WAITS
                ready.revents = 0
                waited = poll(&ready, 1, <int>((latest - now + 999999) // 1000000)) > 0
            elif errno != EINTR:
                # Refused where splice is unknown or forbidden; a broken connection says so again.
                return _REFUSED
        return _ENOUGH

    cdef int pour(self, int target, Py_ssize_t left) noexcept nogil:
        """All that is in the pipe goes into the file."""
        cdef Py_ssize_t n
        while left:
            if self.copies:
                n = copy(self.out, target, left)
            else:
                n = c_splice(self.out, NULL, target, NULL, left, SPLICE_F_MOVE)
            if n > 0:
                left -= n
            elif n < 0 and errno == EINVAL and not self.copies:
                self.copies = True
            elif n == 0 or errno != EINTR:
                return -1
        return 0

    def close(self):
        """Ends the pipe; nobody may be at it."""
        self.end()

    def __dealloc__(self):
        self.end()

    cdef void end(self) noexcept:
        if self.out >= 0:
            c_close(self.out)
            c_close(self.into)
            self.out = self.into = -1


cdef Py_ssize_t copy(int source, int target, Py_ssize_t most) noexcept nogil:
    """Some bytes of the pipe to the file, by way of memory."""
    cdef char data[COPIED]
    cdef Py_ssize_t have, n, done = 0
    have = c_read(source, data, min(most, <Py_ssize_t>COPIED))
    while done < have:
        n = c_write(target, data + done, have - done)
        if n >= 0:
            done += n
        elif errno != EINTR:
            return -1
    return have
