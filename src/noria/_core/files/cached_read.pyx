"""Reads from the page cache that never wait for a disk: preadv2(2) with RWF_NOWAIT."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize

from noria._core.sys cimport EAGAIN, EINTR, ENOSYS, EOPNOTSUPP, errno, iovec, ssize_t

import os

cdef extern from * nogil:
    """
    #include <stdint.h>
    #include <sys/syscall.h>
    #include <sys/uio.h>
    #include <unistd.h>
    #ifndef RWF_NOWAIT
    #define RWF_NOWAIT 8
    #endif
    /* preadv2(2) by its number: musl has the function only from 1.2.5 on. The kernel takes the
       offset as two longs, and ignores the second if a long has 64 bits. */
    static ssize_t noria_preadv2(int fd, const struct iovec *iov, int n, int64_t offset,
                                 int flags) {
        return syscall(SYS_preadv2, fd, iov, (long)n, (long)offset,
                       (long)((uint64_t)offset >> 32), flags);
    }
    """
    ssize_t preadv2 "noria_preadv2"(int fd, const iovec *iov, int n, int64_t offset, int flags)
    int RWF_NOWAIT

cdef enum:
    BYTES_PER_TURN = 2 << 20
    READS_PER_TURN = 512            # about half a millisecond
    READ_AHEAD_COST = 8             # of a byte: splitting it into lines takes longer than copying


cpdef object read_cached(int fd, Py_ssize_t size, int64_t offset):
    """Read at most `size` bytes at `offset` from the page cache: preadv2(2).

    Returns fewer bytes if the rest is not cached or the file ends; None if the read would wait, or
    if the file system cannot tell. Raises OSError.
    """
    cdef iovec vector
    cdef object data = PyBytes_FromStringAndSize(NULL, size)
    cdef ssize_t n
    vector.iov_base = PyBytes_AS_STRING(data)
    vector.iov_len = size
    n = preadv2(fd, &vector, 1, offset, RWF_NOWAIT)
    if n == size:
        return data
    if n < 0:
        # ENOSYS: emulators of Linux, such as qemu-user
        if errno == EAGAIN or errno == EOPNOTSUPP or errno == EINTR or errno == ENOSYS:
            return None
        raise OSError(errno, os.strerror(errno))
    return (<bytes>data)[:n]


cdef class CachedReader:
    """Cached reads with a limit for each turn of the loop.

    Without it, tasks that only read cached data would starve the others, however many they are.
    """

    def __init__(self, loop):
        self.bytes_left, self.reads_left = BYTES_PER_TURN, READS_PER_TURN
        self.call_soon, self.reset_method = loop.call_soon, self.reset

    def reset(self):
        self.bytes_left, self.reads_left, self.exhausted = BYTES_PER_TURN, READS_PER_TURN, False

    cdef bint admit(self, Py_ssize_t size) except -1:
        """Count a read of `size` bytes; False if that is above the limit."""
        if self.exhausted:
            return False
        self.bytes_left -= size
        self.reads_left -= 1
        if self.bytes_left < 0 or self.reads_left < 0:
            self.exhausted = True
            self.call_soon(self.reset_method)
            return False
        return True

    cpdef read_cached(self, int fd, Py_ssize_t size, int64_t offset):
        """As the function `read_cached`; None also above the limit of this turn."""
        return read_cached(fd, size, offset) if self.admit(size) else None

    def read_ahead_cached(self, int fd, Py_ssize_t size, int64_t offset):
        """As `read_cached`, for data that is split afterwards, for example into lines."""
        return read_cached(fd, size, offset) if self.admit(size * READ_AHEAD_COST) else None
