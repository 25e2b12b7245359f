"""`pread`: the read at an offset, which mostly needs no wait.

Cached bytes are copied in the awaiting task's own turn, without a future, a handle or a coroutine's
frame. All other reads continue in a coroutine of the file.
"""

cimport cython
from cpython.bytes cimport PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.stdint cimport int64_t

from noria._core.files.cached_read cimport CachedReader

cdef extern from "Python.h":
    ctypedef PyObject *(*iternextfunc)(PyObject *) noexcept
    ctypedef struct Type "PyTypeObject":
        iternextfunc tp_iternext
    PyObject *None_ "Py_None"
    PyObject *StopIteration_ "PyExc_StopIteration"
    int PyIter_Send(PyObject *iterator, PyObject *arg, PyObject **result) except -1
    void PyErr_SetObject(PyObject *kind, PyObject *value)
    void PyType_Modified(type)
    void decref "Py_DECREF"(PyObject *)

cdef enum SendResult:           # what PyIter_Send returns
    RETURNED = 0
    YIELDED = 1


cdef class PreadFile:
    """The base class of files with `pread`. A subclass has two coroutines:

    - `_pread(size, offset)` does all of the read;
    - `_pread_rest(size, offset, data)` continues after the cached bytes `data`, or None.
    """

    cdef public int _fd                         # -1 once closed
    cdef public bytearray _write_buf            # not flushed yet; None in a file without a buffer
    cdef public CachedReader _cached_reader     # None: the page cache is not tried

    def __cinit__(self, *arguments, **options):
        self._fd = -1

    def pread(self, Py_ssize_t size, int64_t offset):
        """Read `size` bytes at `offset`, fewer only if the file ends; returns a coroutine.

        The position of the file does not change. pread(2)
        """
        cdef PreadCoroutine coroutine = PreadCoroutine.__new__(PreadCoroutine)
        coroutine.file, coroutine.size, coroutine.offset = self, size, offset
        return coroutine


@cython.final
@cython.freelist(64)
cdef class PreadCoroutine:
    """A coroutine (collections.abc.Coroutine): nothing happens before it is awaited."""

    cdef PreadFile file             # None once started
    cdef Py_ssize_t size
    cdef int64_t offset
    cdef object rest                # the coroutine that it continues as

    cdef int step(self, PyObject *value, PyObject **result) except -1:
        """Run one step, as PyIter_Send does: returns RETURNED or YIELDED, or raises."""
        cdef PreadFile file = self.file
        cdef object data
        cdef int sent
        if file is not None:
            self.file = None
            if value != None_:
                raise TypeError("can't send non-None value to a just-started coroutine")
            if (file._cached_reader is not None and file._fd >= 0 and self.size > 0
                    and self.offset >= 0 and not file._write_buf):
                data = file._cached_reader.read_cached(file._fd, self.size, self.offset)
                if data is not None and PyBytes_GET_SIZE(data) == self.size:
                    result[0] = <PyObject *>data
                    Py_INCREF(data)
                    return RETURNED
                self.rest = file._pread_rest(self.size, self.offset, data)
            else:
                self.rest = file._pread(self.size, self.offset)
        elif self.rest is None:
            raise RuntimeError("cannot reuse already awaited coroutine")
        sent = PyIter_Send(<PyObject *>self.rest, value, result)
        if sent != YIELDED:
            self.rest = None
        return sent

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.send(None)

    def send(self, value):
        cdef PyObject *result = NULL
        cdef object got
        cdef int sent = self.step(<PyObject *>value, &result)
        got = <object>result
        decref(result)
        if sent == RETURNED:
            raise StopIteration(got)
        return got

    def throw(self, *what):
        if self.rest is not None:
            return self.rest.throw(*what)
        self.file = None
        error = what[1] if len(what) > 1 and what[1] is not None else what[0]
        raise error

    def close(self):
        self.file = None
        if self.rest is not None:
            self.rest.close()
            self.rest = None


cdef PyObject *iternext(PyObject *coroutine) except? NULL:
    """tp_iternext, which `await` calls. Cython's own would make a traceback for each result."""
    cdef PyObject *result = NULL
    if (<PreadCoroutine>coroutine).step(None_, &result) == RETURNED:
        PyErr_SetObject(StopIteration_, result)
        decref(result)
        return NULL
    return result


(<Type *>PreadCoroutine).tp_iternext = <iternextfunc>iternext
PyType_Modified(PreadCoroutine)
