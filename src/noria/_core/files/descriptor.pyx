"""An open descriptor, and the read at an offset of it that mostly needs no wait.

What is in the kernel's cache is copied in the awaiting task's own turn: no future, no handle and
no coroutine's frame is made for it. What is not, and what is
uncommon, goes on as the coroutine that the file has for it.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.stdint cimport int64_t
from libc.string cimport memcpy

from noria._core.files.memory cimport in_memory

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

cdef enum Sent:                 # what PyIter_Send says
    RETURNED = 0
    YIELDED = 1

cdef enum:
    LARGE = 2 << 20             # bytes that are read without waiting in one turn of the loop
    MANY = 512                  # reads: about half a millisecond
    AHEAD = 8                   # times as much counts a byte that is read ahead


cdef class Inline:
    """How much is read without waiting in one turn of the loop: programs that read nothing but what
    is in memory, however many tasks they have, would starve it otherwise."""

    cdef int64_t bytes_left
    cdef int times_left
    cdef bint spent                 # until the next turn
    cdef object call_soon, renew_

    def __init__(self, loop):
        self.bytes_left, self.times_left = LARGE, MANY
        self.call_soon, self.renew_ = loop.call_soon, self.renew

    def renew(self):
        self.bytes_left, self.times_left, self.spent = LARGE, MANY, False

    cdef bint allowed(self, Py_ssize_t size) except -1:
        if self.spent:
            return False
        self.bytes_left -= size
        self.times_left -= 1
        if self.bytes_left < 0 or self.times_left < 0:
            self.spent = True
            self.call_soon(self.renew_)
            return False
        return True

    cpdef now(self, int fd, Py_ssize_t size, int64_t offset):
        """Bytes that are in memory already, read at once; None where one would wait, and from time
        to time. Fewer than `size` where the rest is not in memory or the file ends. Raises
        OSError."""
        return in_memory(fd, size, offset) if self.allowed(size) else None

    def ahead(self, int fd, Py_ssize_t size, int64_t offset):
        """The same for what is taken apart afterwards, into lines for one: that takes Python longer
        than copying does, so it counts for more."""
        return in_memory(fd, size, offset) if self.allowed(size * AHEAD) else None


@cython.final
cdef class Filling:
    """Bytes that come piece by piece, each copied as it comes: a join would be one long copy."""

    cdef object data
    cdef Py_ssize_t filled

    def __init__(self, Py_ssize_t size):
        self.data = PyBytes_FromStringAndSize(NULL, size)

    def add(self, piece):
        """Appends as much of the piece as there is room for."""
        cdef Py_buffer view
        cdef Py_ssize_t size
        PyObject_GetBuffer(piece, &view, PyBUF_SIMPLE)
        size = min(view.len, PyBytes_GET_SIZE(self.data) - self.filled)
        memcpy(PyBytes_AS_STRING(self.data) + self.filled, view.buf, size)
        self.filled += size
        PyBuffer_Release(&view)

    def end(self):
        """What came."""
        data, self.data = self.data, b""
        return data if self.filled == PyBytes_GET_SIZE(data) else (<bytes>data)[:self.filled]


cdef class Descriptor:
    """The part of a file that `pread` works on. A subclass has two coroutines:

    - `_pread(size, offset)` does all of it;
    - `_read_on(size, offset, data)` goes on where `data` is what was in memory, or None.
    """

    cdef public int _fd             # -1 once closed
    cdef public bytearray _pending  # written, and not yet with the kernel; None where nothing is
    cdef public Inline _inline      # None: nothing is read without waiting

    def __cinit__(self, *arguments, **options):
        self._fd = -1

    def pread(self, Py_ssize_t size, int64_t offset):
        """`size` bytes at `offset`, fewer only where the file ends; pread(2). Moves nothing. To be
        awaited, as a coroutine is."""
        cdef Reading reading = Reading.__new__(Reading)
        reading.file, reading.size, reading.offset = self, size, offset
        return reading


@cython.final
@cython.freelist(64)
cdef class Reading:
    """A coroutine (collections.abc.Coroutine): nothing happens before it is awaited."""

    cdef Descriptor file            # None once begun
    cdef Py_ssize_t size
    cdef int64_t offset
    cdef object rest                # what it goes on as

    cdef int step(self, PyObject *value, PyObject **result) except -1:
        """One step of it, as PyIter_Send does one: RETURNED or YIELDED, or it raises."""
        cdef Descriptor file = self.file
        cdef object data
        cdef int how
        if file is not None:
            self.file = None
            if value != None_:
                raise TypeError("can't send non-None value to a just-started coroutine")
            if (file._inline is not None and file._fd >= 0 and self.size > 0 and self.offset >= 0
                    and not file._pending):
                data = file._inline.now(file._fd, self.size, self.offset)
                if data is not None and PyBytes_GET_SIZE(data) == self.size:
                    result[0] = <PyObject *>data
                    Py_INCREF(data)
                    return RETURNED
                self.rest = file._read_on(self.size, self.offset, data)
            else:
                self.rest = file._pread(self.size, self.offset)
        elif self.rest is None:
            raise RuntimeError("cannot reuse already awaited coroutine")
        how = PyIter_Send(<PyObject *>self.rest, value, result)
        if how != YIELDED:
            self.rest = None
        return how

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.send(None)

    def send(self, value):
        cdef PyObject *result = NULL
        cdef object got
        cdef int how = self.step(<PyObject *>value, &result)
        got = <object>result
        decref(result)
        if how == RETURNED:
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


cdef PyObject *next_of(PyObject *reading) except? NULL:
    """tp_iternext, which `await` calls. Cython's own would make a traceback for each end."""
    cdef PyObject *result = NULL
    if (<Reading>reading).step(None_, &result) == RETURNED:
        PyErr_SetObject(StopIteration_, result)
        decref(result)
        return NULL
    return result


(<Type *>Reading).tp_iternext = <iternextfunc>next_of
PyType_Modified(Reading)
