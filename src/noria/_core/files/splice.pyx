"""Bytes of a socket into a file, past the process's memory: splice(2) by way of a pipe."""

from libc.stdint cimport int64_t

from noria._core.sys cimport (
    EAGAIN, EINTR, EINVAL, EIO, POLLIN, c_close, c_fcntl, c_ppoll, c_read, c_write, errno,
    monotonic_ns, pollfd, timespec,
)

import os

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <fcntl.h>
    """
    int F_SETPIPE_SZ
    unsigned SPLICE_F_MOVE, SPLICE_F_NONBLOCK
    Py_ssize_t c_splice "splice"(int source, void *offset, int target, void *offset_too,
                                 size_t count, unsigned flags) nogil

cdef enum:
    ROOM = 1024 * 1024      # bytes of the pipe: what anybody may have, pipe(7)
    COPIED = 64 * 1024      # bytes that are copied at a time where the file cannot be spliced to
    FAILED = -1             # in the place of a Why: the file did, errno says how

cpdef enum Why:
    """Why `Splice.move` has ended."""
    ENOUGH = 0              # it moved as much as it was to
    WAITS = 1               # nothing more has come yet
    ENDED = 2               # nothing more will come: the peer ended its side, or it broke
    REFUSED = 3             # what comes next has to be received in another way


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
        cdef int why
        with nogil:
            why = self.run(source, target, most, &moved)
        if why == FAILED:
            error = errno or EIO
            raise OSError(error, os.strerror(error))
        return moved, why

    cdef int run(self, int source, int target, Py_ssize_t most, Py_ssize_t *moved) noexcept nogil:
        cdef pollfd ready
        cdef Py_ssize_t n
        cdef int64_t left, latest = 0
        cdef timespec wait
        cdef bint waited = False
        ready.fd, ready.events = source, POLLIN
        while moved[0] < most:
            n = c_splice(source, NULL, self.into, NULL, min(most - moved[0], <Py_ssize_t>ROOM),
                         SPLICE_F_MOVE | SPLICE_F_NONBLOCK)
            if n > 0:
                waited = False
                if self.pour(target, n) < 0:
                    return FAILED
                moved[0] += n
            elif n == 0:
                return ENDED
            elif errno == EAGAIN:
                # The pipe is empty, so it is the socket. What poll sees and splice does not is
                # urgent data, which only recv steps over.
                if waited:
                    return REFUSED
                if latest == 0:
                    latest = monotonic_ns() + self.patience * <int64_t>1000000
                left = latest - monotonic_ns()
                if left <= 0:
                    return WAITS
                wait.tv_sec, wait.tv_nsec = left // 1000000000, left % 1000000000
                waited = c_ppoll(&ready, 1, &wait, NULL) > 0
            elif errno != EINTR:
                # Refused where splice is unknown or forbidden; a broken connection says so again.
                return REFUSED
        return ENOUGH

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
