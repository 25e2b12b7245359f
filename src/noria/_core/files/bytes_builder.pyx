"""A bytes object that is filled piece by piece."""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcpy


@cython.final
cdef class BytesBuilder:
    """Bytes of a known maximum size. Each piece is copied when it arrives, while a join would be
    one long copy that blocks the loop."""

    cdef object data
    cdef Py_ssize_t filled

    def __init__(self, Py_ssize_t size):
        self.data = PyBytes_FromStringAndSize(NULL, size)

    def append(self, piece):
        """Append as much of the piece as there is room for."""
        cdef Py_buffer view
        cdef Py_ssize_t size
        PyObject_GetBuffer(piece, &view, PyBUF_SIMPLE)
        size = min(view.len, PyBytes_GET_SIZE(self.data) - self.filled)
        memcpy(PyBytes_AS_STRING(self.data) + self.filled, view.buf, size)
        self.filled += size
        PyBuffer_Release(&view)

    def finish(self):
        """The bytes that were appended. The builder is empty afterwards."""
        data, self.data = self.data, b""
        return data if self.filled == PyBytes_GET_SIZE(data) else (<bytes>data)[:self.filled]
