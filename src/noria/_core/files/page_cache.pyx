"""The page cache of a file: its counts, the start of writeback, and reserved disk space."""

from libc.stdint cimport int64_t, uint64_t

from noria._core.sys cimport (
    EDQUOT, EFBIG, ENOSPC, MAP_FAILED, MAP_SHARED, PROT_READ, c_syscall, errno, mmap, munmap,
)

import os

cdef extern from "<sys/mman.h>" nogil:
    int mincore(void *addr, size_t length, unsigned char *vec)

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
    MINCORE_PAGES = 4096    # of one call
    SYNC_FILE_RANGE_WRITE = 2
    FALLOC_FL_KEEP_SIZE = 1

cdef Py_ssize_t PAGE_BYTES = os.sysconf("SC_PAGESIZE")


def cachestat(int fd):
    """Return the counts of cached pages, dirty ones, and ones in writeback: cachestat(2).

    Raises OSError: ENOSYS before Linux 6.5, EPERM if it is forbidden.
    """
    cdef Range whole
    cdef Counts counts
    whole.offset = whole.length = 0
    if c_syscall(SYS_cachestat, fd, &whole, &counts, <unsigned int>0) < 0:
        raise OSError(errno, os.strerror(errno))
    return counts.cached, counts.dirty, counts.writeback


def mincore_pages(int fd, Py_ssize_t size):
    """Return the count of cached pages of the first `size` bytes: mincore(2).

    The descriptor must be open for reading; nothing is read. Raises OSError.
    """
    cdef unsigned char present[MINCORE_PAGES]
    cdef Py_ssize_t pages = (size + PAGE_BYTES - 1) // PAGE_BYTES, first, count, i, found = 0
    cdef int failed = 0
    if not pages:
        return 0
    cdef char *memory = <char *>mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0)
    if memory == <char *>MAP_FAILED:
        raise OSError(errno, os.strerror(errno))
    for first in range(0, pages, MINCORE_PAGES):
        count = min(MINCORE_PAGES, pages - first)
        if mincore(memory + first * PAGE_BYTES, count * PAGE_BYTES, present) < 0:
            failed = errno
            break
        for i in range(count):
            found += present[i] & 1
    munmap(memory, size)
    if failed:
        raise OSError(failed, os.strerror(failed))
    return found


def begin_writeback(int fd, int64_t offset, int64_t size):
    """Start writing the dirty pages of a range to the device: sync_file_range(2).

    An fsync(2) afterwards waits for less. Blocks only while the device's queue is full. Errors are
    ignored: not every file system supports it.
    """
    with nogil:
        sync_file_range(fd, offset, size, SYNC_FILE_RANGE_WRITE)


def reserve(int fd, int64_t offset, int64_t size):
    """Reserve disk space for a range that will be written: fallocate(2).

    The file's size does not change. ext4 allocates one range faster than page by page. Raises
    OSError without space; does nothing if the file system does not support it.
    """
    cdef int r
    with nogil:
        r = fallocate(fd, FALLOC_FL_KEEP_SIZE, offset, size)
    if r < 0 and errno in (ENOSPC, EDQUOT, EFBIG):
        raise OSError(errno, os.strerror(errno))
