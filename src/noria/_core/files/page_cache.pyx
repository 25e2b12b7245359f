"""The page cache: what it holds of a file, that it is to be written, and where to."""

from libc.stdint cimport int64_t, uint64_t

from noria._core.sys cimport EDQUOT, EFBIG, ENOSPC, c_syscall, errno

import os

cdef extern from "<sys/mman.h>" nogil:
    void *mmap(void *addr, size_t length, int prot, int flags, int fd, long offset)
    int munmap(void *addr, size_t length)
    int mincore(void *addr, size_t length, unsigned char *vec)
    void *MAP_FAILED
    int PROT_READ, MAP_SHARED

cdef extern from *:
    """
    #include <sys/syscall.h>
    #ifndef SYS_cachestat
    #define SYS_cachestat 451  /* Linux 6.5; older headers lack it */
    #endif
    """
    long SYS_cachestat

cdef extern from "<fcntl.h>" nogil:
    int sync_file_range(int fd, int64_t offset, int64_t n, unsigned int flags)
    int fallocate(int fd, int mode, int64_t offset, int64_t n)

cdef struct Range:          # struct cachestat_range; a length of 0 is the whole file
    uint64_t offset
    uint64_t length

cdef struct Counts:         # struct cachestat
    uint64_t cached
    uint64_t dirty
    uint64_t writeback
    uint64_t evicted
    uint64_t recently_evicted

cdef enum:
    SLICE = 4096            # pages asked of mincore at once
    BEGIN = 2               # SYNC_FILE_RANGE_WRITE
    KEEP_SIZE = 1           # FALLOC_FL_KEEP_SIZE

cdef Py_ssize_t PAGE = os.sysconf("SC_PAGESIZE")


def cachestat(int fd):
    """Pages of the file in the cache, of these dirty, and of these being written: cachestat(2).

    Raises OSError: ENOSYS before Linux 6.5, EPERM where it is refused.
    """
    cdef Range whole
    cdef Counts counts
    whole.offset = whole.length = 0
    if c_syscall(SYS_cachestat, fd, &whole, &counts, <unsigned int>0) < 0:
        raise OSError(errno, os.strerror(errno))
    return counts.cached, counts.dirty, counts.writeback


def mincore_pages(int fd, Py_ssize_t size):
    """Pages of the first `size` bytes in the cache: mincore(2) on a mapping, which reads nothing.

    The descriptor must be open for reading. Raises OSError.
    """
    cdef unsigned char present[SLICE]
    cdef Py_ssize_t pages = (size + PAGE - 1) // PAGE, first, count, i, found = 0
    cdef int failed = 0
    if not pages:
        return 0
    cdef char *memory = <char *>mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0)
    if memory == <char *>MAP_FAILED:
        raise OSError(errno, os.strerror(errno))
    for first in range(0, pages, SLICE):
        count = min(SLICE, pages - first)
        if mincore(memory + first * PAGE, count * PAGE, present) < 0:
            failed = errno
            break
        for i in range(count):
            found += present[i] & 1
    munmap(memory, size)
    if failed:
        raise OSError(failed, os.strerror(failed))
    return found


def begin_writeback(int fd, int64_t offset, int64_t size):
    """Has the device begin to write what is dirty of a range, so that an fsync(2) afterwards has
    less to wait for: sync_file_range(2), which waits only while the device's queue is full. Where
    the file system has none of that, nothing happens."""
    with nogil:
        sync_file_range(fd, offset, size, BEGIN)


def reserve(int fd, int64_t offset, int64_t size):
    """Has the file system find room for what is about to be written, at once and in one place:
    fallocate(2), which leaves the file's size as it is. ext4 has more to do where it finds it page
    by page. Where the file system has none of that, nothing happens.

    Raises OSError where there is no room.
    """
    cdef int r
    with nogil:
        r = fallocate(fd, KEEP_SIZE, offset, size)
    if r < 0 and errno in (ENOSPC, EDQUOT, EFBIG):
        raise OSError(errno, os.strerror(errno))
