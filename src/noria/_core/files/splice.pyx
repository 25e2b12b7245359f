"""Move bytes from a socket to a file through a pipe, not through the process: splice(2)."""

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
    PIPE_BYTES = 1024 * 1024    # the largest pipe without privileges, pipe(7)
    COPY_BYTES = 64 * 1024      # of one copy, if the file does not support splice
    FILE_FAILED = -1            # instead of a StopReason: errno has the file's error

cpdef enum StopReason:
    """Why `Splice.move` returned."""
    COUNT_REACHED = 0       # it has moved as many bytes as requested
    WOULD_BLOCK = 1         # no more data has arrived
    EOF = 2                 # no more data will arrive: the peer's end of stream, or an error
    UNSUPPORTED = 3         # the next data cannot be spliced: receive it


cdef class Splice:
    """A pipe between a socket and a file. One call of `move` at a time; it may be in a thread.

    A call waits at most `timeout_ms` milliseconds for the socket, in all.
    """

    cdef int write_fd, read_fd, timeout_ms
    cdef bint copy_to_file      # the file does not support splice

    def __cinit__(self, int timeout_ms):
        self.timeout_ms = timeout_ms
        self.write_fd = self.read_fd = -1
        self.read_fd, self.write_fd = os.pipe()     # not inheritable
        # Fails if the user has too many large pipes; the size is unchanged then.
        c_fcntl(self.write_fd, F_SETPIPE_SZ, PIPE_BYTES)

    def move(self, int source, int target, Py_ssize_t count):
        """Move at most `count` bytes from the socket `source` to the file `target` at its position.

        Returns (bytes, StopReason). Raises OSError if the file fails: bytes that were taken from
        the socket may be lost then.
        """
        cdef Py_ssize_t moved = 0
        cdef int reason
        with nogil:
            reason = self.move_nogil(source, target, count, &moved)
        if reason == FILE_FAILED:
            error = errno or EIO
            raise OSError(error, os.strerror(error))
        return moved, reason

    cdef int move_nogil(self, int source, int target, Py_ssize_t count,
                        Py_ssize_t *moved) noexcept nogil:
        cdef pollfd ready
        cdef Py_ssize_t n
        cdef int64_t left, deadline = 0
        cdef timespec wait
        cdef bint waited = False
        ready.fd, ready.events = source, POLLIN
        while moved[0] < count:
            n = c_splice(source, NULL, self.write_fd, NULL,
                         min(count - moved[0], <Py_ssize_t>PIPE_BYTES),
                         SPLICE_F_MOVE | SPLICE_F_NONBLOCK)
            if n > 0:
                waited = False
                if self.empty_pipe(target, n) < 0:
                    return FILE_FAILED
                moved[0] += n
            elif n == 0:
                return EOF
            elif errno == EAGAIN:
                # The pipe is empty, so the socket would block. If it does although poll reported
                # data, that is urgent data, which only recv skips.
                if waited:
                    return UNSUPPORTED
                if deadline == 0:
                    deadline = monotonic_ns() + self.timeout_ms * <int64_t>1000000
                left = deadline - monotonic_ns()
                if left <= 0:
                    return WOULD_BLOCK
                wait.tv_sec, wait.tv_nsec = left // 1000000000, left % 1000000000
                waited = c_ppoll(&ready, 1, &wait, NULL) > 0
            elif errno != EINTR:
                # splice is unknown or forbidden; or the connection failed, which recv reports.
                return UNSUPPORTED
        return COUNT_REACHED

    cdef int empty_pipe(self, int target, Py_ssize_t left) noexcept nogil:
        """Write all data of the pipe to the file; -1 with errno if that fails."""
        cdef Py_ssize_t n
        while left:
            if self.copy_to_file:
                n = copy(self.read_fd, target, left)
            else:
                n = c_splice(self.read_fd, NULL, target, NULL, left, SPLICE_F_MOVE)
            if n > 0:
                left -= n
            elif n < 0 and errno == EINVAL and not self.copy_to_file:
                self.copy_to_file = True
            elif n == 0 or errno != EINTR:
                return -1
        return 0

    def close(self):
        """Close the pipe. No call of `move` may be in progress."""
        self.close_pipe()

    def __dealloc__(self):
        self.close_pipe()

    cdef void close_pipe(self) noexcept:
        if self.read_fd >= 0:
            c_close(self.read_fd)
            c_close(self.write_fd)
            self.read_fd = self.write_fd = -1


cdef Py_ssize_t copy(int source, int target, Py_ssize_t count) noexcept nogil:
    """Copy some bytes of the pipe to the file; returns their count, or -1 with errno."""
    cdef char data[COPY_BYTES]
    cdef Py_ssize_t have, n, done = 0
    have = c_read(source, data, min(count, <Py_ssize_t>COPY_BYTES))
    while done < have:
        n = c_write(target, data + done, have - done)
        if n >= 0:
            done += n
        elif errno != EINTR:
            return -1
    return have
