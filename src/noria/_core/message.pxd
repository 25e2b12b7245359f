"""Bytes objects that are written to: received into directly, or overwritten by the next message.

A message to which no other reference exists is overwritten by the next one: its memory is in the
cache, and neither malloc nor free is called. The test is a reference count of one, the stream's
own, after data_received has returned; the cached hash is dropped. Without the GIL a count of one
proves nothing, so a free-threaded build never reuses a message.

From Python 3.14 on, the interpreter also has references that it does not count: LOAD_FAST_BORROW
pushes a local variable onto the evaluation stack without an increment, and a Python function that
is called from there gets its arguments the same way. They do not matter here:

- An uncounted reference is valid because a counted one outlives it: a local variable of the same
  frame or of a calling one. A local that is overwritten through f_locals (PEP 667) is kept in the
  frame object (f_overwritten_fast_locals, pycore_frame.h). An uncounted reference to a message thus
  implies a counted one besides the stream's, or is derived from the stream's own, which was passed
  to data_received.
- The call from the stream counts: _PyEval_Vector takes a new reference for each argument. A frame
  that outlives the call (a suspended generator or coroutine, a frame object that a traceback or a
  trace function keeps) was copied by _PyFrame_Copy (pycore_interpframe.h), which turns each local
  and each entry of its stack into a counted reference (PyStackRef_MakeHeapSafe). A value that is
  yielded, returned or sent is converted, too.
- CPython warns of extensions that test the count of an object that the interpreter passed to them
  (PyUnstable_Object_IsUniqueReferencedTemporary), as their reference may be borrowed from a
  caller's. The stream has made the object and holds a counted reference.

tests/core/test_messages_kept.py tries each of these ways to keep a message, with the JIT too.
"""

from cpython.buffer cimport (
    PyBUF_FULL_RO, PyBuffer_IsContiguous, PyBuffer_Release, PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_FromStringAndSize

cdef enum:
    MAX_COPIED = 4 * 1024   # bytes that small_copy copies

cdef extern from *:
    """
    static inline int noria_unreferenced(PyObject *bytes) {
    #ifdef Py_GIL_DISABLED
        return 0;
    #else
        return Py_REFCNT(bytes) == 1;
    #endif
    }
    #if defined(__GNUC__)
    #pragma GCC diagnostic push
    #pragma GCC diagnostic ignored "-Wdeprecated-declarations"
    #endif
    static inline void noria_truncate(PyObject *bytes, Py_ssize_t n) {
        ((PyBytesObject *)bytes)->ob_sval[n] = 0;
        Py_SET_SIZE(bytes, n);
    }
    static inline void noria_overwrite(PyObject *bytes, const char *data, Py_ssize_t n) {
        PyBytesObject *self = (PyBytesObject *)bytes;
        memcpy(self->ob_sval, data, n);
        self->ob_sval[n] = 0;
        self->ob_shash = -1;
        Py_SET_SIZE(self, n);
    }
    #if defined(__GNUC__)
    #pragma GCC diagnostic pop
    #endif
    """
    # Whether the caller's reference is the only one.
    bint unreferenced "noria_unreferenced"(object data)
    # Replaces the content of a bytes object that has memory for at least `n` bytes.
    void overwrite "noria_overwrite"(object data, const char *source, Py_ssize_t n)
    # Shortens a bytes object to which only the caller has a reference; its memory is not resized.
    void truncate "noria_truncate"(object data, Py_ssize_t n)

cdef extern from "Python.h":
    # A bytes object whose references Cython does not count.
    ctypedef struct Raw "PyObject":
        pass
    Raw *new_bytes "PyBytes_FromStringAndSize"(const char *data, Py_ssize_t size) except NULL
    int resize_bytes "_PyBytes_Resize"(Raw **bytes, Py_ssize_t size) except -1

cdef inline bytes bytes_of(data):
    """`data` as bytes: itself, or a copy that later changes of a buffer do not affect."""
    if type(data) is bytes:
        return data
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError("data argument must be a bytes-like object, not "
                        f"{type(data).__name__!r}")
    return bytes(data)

cdef inline bytes small_copy(data):
    """Copy a caller's buffer if it is small and contiguous; return None otherwise."""
    cdef Py_buffer view
    cdef bytes copy = None
    if type(data) is not memoryview and type(data) is not bytearray:
        return None
    PyObject_GetBuffer(data, &view, PyBUF_FULL_RO)
    if view.len <= MAX_COPIED and PyBuffer_IsContiguous(&view, b"C"):
        copy = PyBytes_FromStringAndSize(<char *>view.buf, view.len)
    PyBuffer_Release(&view)
    return copy
