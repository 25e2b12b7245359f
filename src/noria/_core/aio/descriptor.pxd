from noria._core.contract cimport Channel

cdef class Descriptor(Channel):
    cdef object core                # the loop
    cdef object reader              # handles, compiled or asyncio's own, or None
    cdef object writer
    cdef object current             # the one that runs
    cdef int add(self, int interest, object handle) except -1
    cdef bint remove(self, int interest) except -1
    cdef int call(self, object handle) except -1
