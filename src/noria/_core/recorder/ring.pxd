"""The Recorder, which owns a ring."""

from libc.stdint cimport uint64_t

from noria._core.recorder.record cimport Beat, Ring

cdef Beat beat      # one for all rings of the process

cdef class Recorder:
    cdef Ring ring
    cdef readonly int fd        # of the shared memory; -1 once closed
    cdef readonly uint64_t capacity
    cdef size_t mapped          # bytes
    cdef dict ids               # address of each interned object -> the object
    cdef list names             # the objects in the order in which they were interned
    cdef uint64_t intern_object(self, object o) except? 0
    cdef void abandon(self) noexcept
    cdef void release(self) noexcept
