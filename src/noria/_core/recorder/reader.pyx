"""Reading a recorder's ring, of this process or another one, while its owner writes.

The reader maps the memory read-only and never makes the owner wait. It copies records, and looks
at the header's `head` again afterwards: what the owner may have overwritten meanwhile is dropped.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint64_t
from libc.string cimport memcpy

from noria._core.recorder.events cimport (
    FORMAT_VERSION, HEADER_SIZE, RECORD_SIZE, Record, RingHeader,
)
from noria._core.recorder.record cimport load_acquire
from noria._core.sys cimport MAP_FAILED, MAP_SHARED, PROT_READ, errno, mmap, munmap

import os

from noria.errors import RecordingError

cdef extern from *:
    """
    #define noria_load_fence() __atomic_thread_fence(__ATOMIC_ACQUIRE)
    """
    void load_fence "noria_load_fence"() noexcept nogil

cdef enum:
    MAX_CAPACITY = 1 << 30


cdef class RingReader:
    """Reads the records of a ring, from the oldest that is there.

    Args:
        fd: a descriptor of the memory, open for reading. The reader does not keep it.

    Raises RecordingError if the memory is not a recorder's, OSError if it cannot be mapped.
    """

    cdef RingHeader *memory
    cdef Record *records
    cdef size_t size
    cdef uint64_t next
    cdef readonly uint64_t capacity
    cdef readonly uint64_t dropped      # records that were overwritten before they were read

    def __cinit__(self, int fd):
        cdef void *place
        cdef RingHeader *header
        self.size = os.fstat(fd).st_size
        if self.size < HEADER_SIZE:
            raise RecordingError("the memory is not a recorder's: it is too small")
        place = mmap(NULL, self.size, PROT_READ, MAP_SHARED, fd, 0)
        if place == MAP_FAILED:
            raise OSError(errno, os.strerror(errno), "memory of the recorder")
        self.memory = header = <RingHeader *>place
        if header.magic[:8] != b"NORIAREC":
            raise RecordingError("the memory is not a recorder's")
        if header.version != FORMAT_VERSION or header.record_size != RECORD_SIZE:
            raise RecordingError(f"the recorder's format is version {header.version}; this noria "
                                 f"reads version {FORMAT_VERSION}")
        # A copy: what the owner writes later is not looked at.
        self.capacity = header.capacity
        if not 0 < self.capacity <= MAX_CAPACITY or self.capacity & (self.capacity - 1) or \
                self.size < HEADER_SIZE + self.capacity * RECORD_SIZE:
            raise RecordingError(f"the recorder's memory is damaged: {self.capacity} records do "
                                 f"not fit in {self.size} bytes")
        self.records = <Record *>(<char *>place + HEADER_SIZE)
        self.rewind()

    def __dealloc__(self):
        self.unmap()

    cdef void unmap(self) noexcept:
        if self.memory != NULL:
            munmap(self.memory, self.size)
            self.memory = NULL

    def close(self):
        """Unmap the memory. A second call does nothing."""
        self.unmap()

    cdef int check_open(self) except -1:
        if self.memory == NULL:
            raise ValueError("the reader is closed")
        return 0

    @property
    def head(self):
        """The number of records that the owner has written so far."""
        self.check_open()
        return load_acquire(&self.memory.head)

    def header(self):
        """Return the fields of the ring's header: see events.pxd."""
        self.check_open()
        cdef RingHeader *header = self.memory
        return {
            "version": header.version,
            "record_size": header.record_size,
            "capacity": self.capacity,
            "head": load_acquire(&header.head),
            "ticks_base": header.ticks_base,
            "monotonic_base_ns": header.monotonic_base_ns,
            "realtime_base_ns": header.realtime_base_ns,
            "ns_per_tick": header.ns_per_tick,
            "turn_started": header.turn_started,
            "turn_queue": header.turn_queue,
            "turns": header.turns,
            "pid": header.pid,
            "thread_native_id": header.thread_native_id,
            "thread_ident": header.thread_ident,
            "model": header.model[:16].split(b"\0")[0].decode("utf-8", "replace"),
        }

    def rewind(self):
        """Go to the oldest record that is there."""
        self.check_open()
        cdef uint64_t head = load_acquire(&self.memory.head)
        self.next = head - self.capacity + 1 if head >= self.capacity else 0

    def skip(self):
        """Go to the end: `pull` returns only what is recorded from now on."""
        self.check_open()
        self.next = load_acquire(&self.memory.head)

    def pull(self, uint64_t max_records=MAX_CAPACITY):
        """Return the records since the last call, at most `max_records`, the oldest first.

        `dropped` increases by the number of records that were overwritten before this call could
        read them.
        """
        self.check_open()
        cdef uint64_t head = load_acquire(&self.memory.head)
        cdef uint64_t first, count, oldest, part, lost
        cdef char *place
        # The owner may be writing record number `head`, in the place of head - capacity.
        oldest = head - self.capacity + 1 if head >= self.capacity else 0
        if self.next < oldest:
            self.dropped += oldest - self.next
            self.next = oldest
        if self.next >= head:
            return b""
        first = self.next
        count = min(head - first, max_records)
        data = PyBytes_FromStringAndSize(NULL, count * RECORD_SIZE)
        place = PyBytes_AS_STRING(data)
        part = min(count, self.capacity - (first & (self.capacity - 1)))
        with nogil:
            memcpy(place, &self.records[first & (self.capacity - 1)], part * RECORD_SIZE)
            memcpy(place + part * RECORD_SIZE, self.records, (count - part) * RECORD_SIZE)
            load_fence()
        self.next = first + count
        head = load_acquire(&self.memory.head)
        oldest = head - self.capacity + 1 if head >= self.capacity else 0
        if oldest <= first:
            return data
        lost = min(oldest - first, count)
        self.dropped += lost
        return data[lost * RECORD_SIZE:]
