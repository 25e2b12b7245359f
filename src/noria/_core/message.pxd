"""Bytes objects that are written to: received into directly, or overwritten by the next message.

A message to which no other reference exists becomes a spare, which a later message overwrites: its
memory is in the cache, and neither malloc nor free is called. The test is a reference count of one,
the stream's own, after data_received has returned, or after the message was sent if a write of it
was deferred; the cached hash is dropped. Without the GIL a count of one proves nothing, so a
free-threaded build never reuses a message.

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
from cpython.object cimport PyObject

cdef enum:
    MAX_COPIED = 4 * 1024   # bytes that small_copy copies

cdef extern from *:
    """
    enum {
        NORIA_MAX_SPARE_MESSAGES = 64,          /* as many as the writes that a turn defers */
        NORIA_MAX_SPARE_BYTES = 4096    /* of each but the first */
    };
    typedef struct {
        PyObject *message;
        Py_ssize_t capacity;            /* at least its size */
    } noria_spare_message;
    typedef struct {
        Py_ssize_t count;
        noria_spare_message entries[NORIA_MAX_SPARE_MESSAGES];
    } noria_spare_messages;
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
    static inline PyObject *noria_make_message(noria_spare_messages *spares, const char *data,
                                               Py_ssize_t n, Py_ssize_t *capacity) {
        if (spares->count) {
            noria_spare_message *last = &spares->entries[--spares->count];
            if (n <= last->capacity && last->capacity < 2 * n) {
                noria_overwrite(last->message, data, n);
                *capacity = last->capacity;
                return last->message;
            }
            Py_DECREF(last->message);
        }
        *capacity = n;
        return PyBytes_FromStringAndSize(data, n);
    }
    static inline void noria_keep_spare(noria_spare_messages *spares, PyObject *message,
                                        Py_ssize_t capacity) {
    #ifndef Py_GIL_DISABLED
        if (Py_REFCNT(message) == 1 && spares->count < NORIA_MAX_SPARE_MESSAGES
                && (capacity <= NORIA_MAX_SPARE_BYTES || !spares->count)) {
            noria_spare_message *next = &spares->entries[spares->count++];
            Py_INCREF(message);
            next->message = message;
            next->capacity = capacity;
        }
    #endif
    }
    static inline void noria_free_spares(noria_spare_messages *spares) {
        while (spares->count)
            Py_DECREF(spares->entries[--spares->count].message);
    }
    """
    # Shortens a bytes object to which only the caller has a reference; its memory is not resized.
    void truncate "noria_truncate"(object data, Py_ssize_t n)
    ctypedef struct SpareMessages "noria_spare_messages":
        pass
    # A message with these bytes: the last spare if it has the size, else a new object.
    bytes make_message "noria_make_message"(SpareMessages *spares, const char *data, Py_ssize_t n,
                                            Py_ssize_t *capacity)
    # Keeps an exact bytes object as a spare if the caller's reference, which it then drops, is the
    # only one.
    void keep_spare "noria_keep_spare"(SpareMessages *spares, PyObject *message,
                                       Py_ssize_t capacity) noexcept
    void free_spares "noria_free_spares"(SpareMessages *spares) noexcept

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

cdef inline Py_ssize_t expect(Py_ssize_t size_hint, Py_ssize_t n) noexcept:
    """The expected size of the next message: it grows at once and shrinks by halves."""
    return n if n >= size_hint else (size_hint + n) >> 1
