"""The program's line that has caused something."""

from cpython.object cimport PyObject

from noria._core.recorder.record cimport Ring

# Write a CALLER record for the descriptor, unless no frame of the program runs above `base_frame`.
cdef void write_caller(Ring *ring, int fd, PyObject *base_frame) noexcept
