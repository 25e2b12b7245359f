"""openat2(2), which Python does not have, and a small file read with one call."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint64_t

from noria._core.files.cached_read cimport read_cached
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
    SYS_OPENAT2 = 437           # on every architecture but alpha
    READ_FLAGS = 0o2000000 | 0o4000 | 0o400     # O_CLOEXEC | O_NONBLOCK | O_NOCTTY
    # RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_CACHED
    RESOLVE_FLAGS = 0x08 | 0x02 | 0x20

cdef int64_t MAX_SECONDS = 9223372036   # since the epoch: its nanoseconds fit in 64 bits, year 2262


def openat2(int directory, bytes path not None, uint64_t flags, uint64_t mode, uint64_t resolve):
    """Open `path` relative to the descriptor `directory`; returns a descriptor. Raises OSError."""
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


def read_small_file(int directory, bytes path not None, Py_ssize_t max_size):
    """Read a regular file of at most `max_size` bytes if its names and bytes are cached.

    Returns (stat, data), or None for any other file and after any error. `stat` is four numbers of
    8 bytes: the inode, the size, and st_mtime and st_ctime in nanoseconds. The path is resolved
    beneath the descriptor `directory`, without magic links. Nothing here waits for a disk.
    """
    cdef open_how how
    cdef stat_ status
    cdef int64_t numbers[4]
    cdef object data = None
    cdef int fd
    how.flags, how.mode, how.resolve = READ_FLAGS, 0, RESOLVE_FLAGS
    fd = <int>c_syscall(SYS_OPENAT2, directory, PyBytes_AS_STRING(path), &how, sizeof(open_how))
    if fd < 0:
        return None
    try:
        if (fstat(fd, &status) == 0 and S_ISREG(status.st_mode) and status.st_size <= max_size
                and -MAX_SECONDS < status.st_mtim.tv_sec < MAX_SECONDS
                and -MAX_SECONDS < status.st_ctim.tv_sec < MAX_SECONDS):
            data = read_cached(fd, <Py_ssize_t>status.st_size, 0)
    except OSError:
        return None
    finally:
        c_close(fd)
    if data is None or PyBytes_GET_SIZE(data) != status.st_size:
        return None
    numbers[0], numbers[1] = <int64_t>status.st_ino, status.st_size
    numbers[2] = status.st_mtim.tv_sec * 1000000000 + status.st_mtim.tv_nsec
    numbers[3] = status.st_ctim.tv_sec * 1000000000 + status.st_ctim.tv_nsec
    return PyBytes_FromStringAndSize(<char *>numbers, sizeof(numbers)), data
