"""The read that never waits: preadv2(2) with RWF_NOWAIT."""

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
    /* preadv2(2) by its number, since musl has the function from 1.2.5 on only. The kernel takes
       the offset as two longs; if a long has 64 bits, it ignores the second. */
    static ssize_t noria_preadv2(int fd, const struct iovec *iov, int n, int64_t offset,
                                 int flags) {
        return syscall(SYS_preadv2, fd, iov, (long)n, (long)offset,
                       (long)((uint64_t)offset >> 32), flags);
    }
    """
    ssize_t preadv2 "noria_preadv2"(int fd, const iovec *iov, int n, int64_t offset, int flags)
    int RWF_NOWAIT


cpdef object in_memory(int fd, Py_ssize_t size, int64_t offset):
    """What the page cache has of `size` bytes at `offset`: fewer where the rest is not in memory or
    the file ends, None where one would have to wait or the file system cannot tell. Raises
    OSError."""
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
