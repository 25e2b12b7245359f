"""openat2(2), which Python does not have, and what a file server does most: a small file whole."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint64_t

from noria._core.files.memory cimport in_memory
from noria._core.sys cimport EINTR, c_close, c_syscall, errno

import os

cdef extern from "<sys/stat.h>" nogil:
    struct timespec_ "timespec":
        int64_t tv_sec
        int64_t tv_nsec
    struct stat_ "stat":
        unsigned int st_mode
        uint64_t st_ino
        int64_t st_size
        timespec_ st_mtim
        timespec_ st_ctim
    int fstat(int fd, stat_ *buf)
    bint S_ISREG(unsigned int mode)

cdef struct open_how:
    uint64_t flags
    uint64_t mode
    uint64_t resolve

cdef enum:
    SYS_OPENAT2 = 437           # the same number wherever Linux got it, but on alpha
    READ = 0o2000000 | 0o4000 | 0o400           # O_CLOEXEC | O_NONBLOCK | O_NOCTTY
    BENEATH_CACHED = 0x08 | 0x02 | 0x20         # and no magic links, openat2(2)

cdef int64_t SECONDS_MAX = 9223372036   # since the epoch, whose nanoseconds have 64 bits: year 2262


def openat2(int directory, bytes path not None, uint64_t flags, uint64_t mode, uint64_t resolve):
    """Opens `path` from `directory` on and gives the descriptor. Raises OSError."""
    cdef open_how how
    cdef const char *name = PyBytes_AS_STRING(path)
    cdef long fd
    how.flags, how.mode, how.resolve = flags, mode if flags & os.O_CREAT else 0, resolve
    while True:
        with nogil:
            fd = c_syscall(SYS_OPENAT2, directory, name, &how, sizeof(open_how))
        if fd >= 0:
            return fd
        if errno != EINTR:
            raise OSError(errno, os.strerror(errno), os.fsdecode(path))


def read_small(int directory, bytes path not None, Py_ssize_t most):
    """(facts, data) of a regular file of `most` bytes at most, if the kernel has its names and its
    bytes in memory; else None, whatever the reason.

    The facts are four numbers of 8 bytes: inode, size, and the times of the last change of the
    content and of the inode in nanoseconds. The path is resolved beneath the directory, without
    magic links. Nothing here waits for a disk.
    """
    cdef open_how how
    cdef stat_ status
    cdef int64_t facts[4]
    cdef object data = None
    cdef int fd
    how.flags, how.mode, how.resolve = READ, 0, BENEATH_CACHED
    fd = <int>c_syscall(SYS_OPENAT2, directory, PyBytes_AS_STRING(path), &how, sizeof(open_how))
    if fd < 0:
        return None
    try:
        if (fstat(fd, &status) == 0 and S_ISREG(status.st_mode) and status.st_size <= most
                and -SECONDS_MAX < status.st_mtim.tv_sec < SECONDS_MAX
                and -SECONDS_MAX < status.st_ctim.tv_sec < SECONDS_MAX):
            data = in_memory(fd, <Py_ssize_t>status.st_size, 0)
    except OSError:
        return None
    finally:
        c_close(fd)
    if data is None or PyBytes_GET_SIZE(data) != status.st_size:
        return None
    facts[0], facts[1] = <int64_t>status.st_ino, status.st_size
    facts[2] = status.st_mtim.tv_sec * 1000000000 + status.st_mtim.tv_nsec
    facts[3] = status.st_ctim.tv_sec * 1000000000 + status.st_ctim.tv_nsec
    return PyBytes_FromStringAndSize(<char *>facts, sizeof(facts)), data
