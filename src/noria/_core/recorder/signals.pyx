"""Signals that write flight recordings: one that the user sends, and those of a crash.

The handlers are C functions that the interpreter does not know of. That of the user's signal wakes
a thread. Those of a crash write the rings with write(2), for nothing else is safe then
(signal-safety(7)), and raise the signal again for the handler that was there before, such as
faulthandler's.
"""

from libc.errno cimport errno
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from noria._core.recorder.events cimport HEADER_SIZE, RECORD_SIZE, RingHeader
from noria._core.sys cimport (
    MAP_FAILED, MAP_SHARED, O_CLOEXEC, PROT_READ, c_close, c_write, mmap, munmap,
)

import os

cdef extern from "<fcntl.h>" nogil:
    int c_open "open"(const char *path, int flags, ...)
    int O_WRONLY, O_CREAT, O_TRUNC, O_NOFOLLOW

cdef extern from "<signal.h>" nogil:
    ctypedef void (*sighandler_t)(int) noexcept nogil
    ctypedef struct sigset_t:
        pass
    struct c_sigaction "sigaction":
        sighandler_t sa_handler
        sigset_t sa_mask
        int sa_flags
    int call_sigaction "sigaction"(int signum, const c_sigaction *act, c_sigaction *old)
    int sigemptyset(sigset_t *mask)
    int c_raise "raise"(int signum)
    sighandler_t SIG_DFL
    int SA_RESTART, SA_ONSTACK, SA_NODEFER
    int SIGSEGV, SIGABRT, SIGBUS, SIGFPE, SIGILL

cdef enum:
    MAX_RINGS = 64
    MAX_PATH = 4096
    FATAL = 5
    CHUNK_RECORDS = 1       # noria.sight.recording.RECORDS

cdef struct MappedRing:
    RingHeader *header
    size_t size
    uint32_t loop

cdef struct Chunk:
    uint32_t kind
    uint32_t loop
    uint64_t length

cdef int wake_fd = -1           # an eventfd
cdef int user_signal = 0
cdef c_sigaction user_former

cdef int[FATAL] fatal_signals
fatal_signals[:] = [SIGSEGV, SIGABRT, SIGBUS, SIGFPE, SIGILL]
cdef c_sigaction[FATAL] fatal_formers
cdef bint fatal_installed = False
cdef volatile int crashing = 0
cdef char[MAX_PATH] crash_path
cdef char *preamble = NULL      # what the file has before the records
cdef size_t preamble_size = 0
cdef MappedRing[MAX_RINGS] rings
cdef int ring_count = 0


cdef void wake_thread(int signum) noexcept nogil:
    cdef uint64_t one = 1
    cdef int saved = errno
    if wake_fd >= 0:
        c_write(wake_fd, &one, sizeof(one))
    (&errno)[0] = saved


def install_dump_signal(int signum, int eventfd):
    """Have a signal add 1 to an eventfd; return False if the signal has a handler already."""
    global wake_fd, user_signal
    cdef c_sigaction action
    if call_sigaction(signum, NULL, &user_former) < 0 or user_former.sa_handler != SIG_DFL:
        return False
    memset(&action, 0, sizeof(action))
    action.sa_handler = wake_thread
    sigemptyset(&action.sa_mask)
    action.sa_flags = SA_RESTART | SA_ONSTACK
    wake_fd = eventfd
    if call_sigaction(signum, &action, NULL) < 0:
        return False
    user_signal = signum
    return True


def remove_dump_signal():
    """Undo install_dump_signal, unless the program has set a handler of its own meanwhile."""
    global wake_fd, user_signal
    cdef c_sigaction now
    if user_signal and call_sigaction(user_signal, NULL, &now) == 0 \
            and now.sa_handler == wake_thread:
        call_sigaction(user_signal, &user_former, NULL)
    user_signal = 0
    wake_fd = -1


cdef void write_all(int fd, const void *data, size_t size) noexcept nogil:
    cdef const char *place = <const char *>data
    cdef long done
    while size:
        done = c_write(fd, place, size)
        if done <= 0:
            return
        place += done
        size -= done


cdef void write_ring(int fd, MappedRing *ring) noexcept nogil:
    """Write the records of a ring, the oldest first."""
    cdef RingHeader *header = ring.header
    cdef const char *records = <const char *>header + HEADER_SIZE
    cdef uint64_t capacity = header.capacity
    cdef uint64_t head = header.head
    cdef uint64_t count = head if head < capacity else capacity
    cdef uint64_t first = (head - count) & (capacity - 1)
    cdef uint64_t until_end = capacity - first
    cdef Chunk chunk
    if not count:
        return
    chunk.kind = CHUNK_RECORDS
    chunk.loop = ring.loop
    chunk.length = count * RECORD_SIZE
    write_all(fd, &chunk, sizeof(chunk))
    if count <= until_end:
        write_all(fd, records + first * RECORD_SIZE, count * RECORD_SIZE)
    else:
        write_all(fd, records + first * RECORD_SIZE, until_end * RECORD_SIZE)
        write_all(fd, records, (count - until_end) * RECORD_SIZE)


cdef void write_crash(int signum) noexcept nogil:
    """Write the flight recording, and have the former handler handle the signal."""
    global crashing
    cdef int i, fd
    cdef size_t length
    for i in range(FATAL):
        if fatal_signals[i] == signum:
            call_sigaction(signum, &fatal_formers[i], NULL)
    if not crashing:
        crashing = 1
        fd = c_open(crash_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0o600)
        if fd >= 0:
            write_all(fd, preamble, preamble_size)
            for i in range(ring_count):
                write_ring(fd, &rings[i])
            c_close(fd)
            length = 0
            while crash_path[length]:
                length += 1
            write_all(2, b"noria: flight recording of the crash: ", 38)
            write_all(2, crash_path, length)
            write_all(2, b"\n", 1)
    c_raise(signum)


def install_crash_dump(path):
    """Have fatal signals write the rings of `set_crash_data` to a file at `path`.

    Raises ValueError for a path that is too long.
    """
    global fatal_installed
    cdef c_sigaction action
    cdef int i
    cdef bytes name = os.fsencode(path)
    if len(name) >= MAX_PATH:
        raise ValueError("the path of the flight recording is too long")
    memcpy(crash_path, <char *>name, len(name) + 1)
    if fatal_installed:
        return
    memset(&action, 0, sizeof(action))
    action.sa_handler = write_crash
    sigemptyset(&action.sa_mask)
    action.sa_flags = SA_ONSTACK | SA_NODEFER
    for i in range(FATAL):
        call_sigaction(fatal_signals[i], &action, &fatal_formers[i])
    fatal_installed = True


def remove_crash_dump():
    """Undo install_crash_dump, and free the memory of set_crash_data."""
    global fatal_installed
    cdef c_sigaction now
    cdef int i
    if fatal_installed:
        for i in range(FATAL):
            if call_sigaction(fatal_signals[i], NULL, &now) == 0 \
                    and now.sa_handler == write_crash:
                call_sigaction(fatal_signals[i], &fatal_formers[i], NULL)
        fatal_installed = False
    set_crash_data(b"", [])


def set_crash_data(bytes data, loops):
    """Set what a crash writes: the beginning of the file, and the rings.

    `loops` is a list of (loop id, descriptor that is open for reading); they are closed.
    """
    global preamble, preamble_size, ring_count
    cdef char *former = preamble
    cdef char *copy = NULL
    cdef size_t size = len(data)
    cdef MappedRing ring
    cdef void *place
    cdef int i
    if size:
        copy = <char *>malloc(size)
        if copy != NULL:
            memcpy(copy, <char *>data, size)
    preamble_size = 0
    preamble = copy
    preamble_size = size if copy != NULL else 0
    free(former)
    wanted = {loop for loop, _ in loops}
    for i in range(ring_count - 1, -1, -1):
        if rings[i].loop not in wanted:
            ring = rings[i]
            ring_count -= 1
            rings[i] = rings[ring_count]
            munmap(ring.header, ring.size)
    known = {rings[i].loop for i in range(ring_count)}
    for loop, fd in loops:
        try:
            if loop in known or ring_count == MAX_RINGS:
                continue
            ring.size = os.fstat(fd).st_size
            place = mmap(NULL, ring.size, PROT_READ, MAP_SHARED, fd, 0)
            if place == MAP_FAILED:
                continue
            ring.header = <RingHeader *>place
            ring.loop = loop
            rings[ring_count] = ring
            ring_count += 1
        finally:
            os.close(fd)
