"""The analysis of one loop's records."""

from noria._core.recorder.state cimport State

cdef class Analysis:
    cdef State *state
    cdef readonly object header
