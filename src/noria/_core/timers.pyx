"""Callbacks to run, now or at a time; the timers are a heap that knows where each one stands.

A cancelled timer leaves the heap at once, so timeouts that are set and cancelled for every request
leave nothing behind.
"""

cimport cython
from cpython.mem cimport PyMem_RawFree, PyMem_RawRealloc
from cpython.ref cimport Py_DECREF, Py_INCREF

cdef extern from *:
    """
    static PyObject *noria_call(PyObject *callback, PyObject *args) {
        return PyObject_Vectorcall(callback, &PyTuple_GET_ITEM(args, 0), PyTuple_GET_SIZE(args),
                                   NULL);
    }
    static PyObject *noria_call_within(PyObject *context, PyObject *callback, PyObject *args) {
        PyObject *result;
        if (PyContext_Enter(context) < 0) return NULL;
        result = noria_call(callback, args);
        if (PyContext_Exit(context) < 0) Py_CLEAR(result);
        return result;
    }
    """
    object noria_call(object callback, tuple args)
    object noria_call_within(object context, object callback, tuple args)


@cython.freelist(256)
cdef class Handle(Target):
    """A callback in the queue; `cancel` keeps it from running. As asyncio.Handle."""

    cdef int handle(self, Event *event) except -1:
        # Held here: the callback may cancel its own handle.
        cdef object callback = self.callback
        cdef tuple args = <tuple>self.args
        if self.dropped:
            return 0
        if self.context is None:
            noria_call(callback, args)
        else:
            noria_call_within(self.context, callback, args)
        return 0

    cpdef cancel(self):
        """Keeps the callback from running; cancelling twice, or too late, does nothing."""
        self.dropped = True
        self.callback = None
        self.args = None

    def cancelled(self):
        """Whether `cancel` was called."""
        return self.dropped

    def get_context(self):
        """The contextvars.Context that the callback runs in, or None for the loop's own."""
        return self.context

    @property
    def _callback(self):
        return self.callback

    @property
    def _args(self):
        return self.args

    @property
    def _cancelled(self):
        return self.dropped

    def __repr__(self):
        name = type(self).__name__
        if self.dropped:
            return f"<{name} cancelled>"
        return f"<{name} {getattr(self.callback, '__qualname__', None) or repr(self.callback)}()>"


cdef class Timer(Handle):
    """A callback for a time. As asyncio.TimerHandle."""

    def __cinit__(self):
        self.place = -1

    cpdef cancel(self):
        if self.place >= 0:
            self.timers.remove(self)
        Handle.cancel(self)

    def when(self):
        """The time it is due, in seconds of the loop's `time()`."""
        return self.moment


cdef class Timers:
    """The timers that are not due yet."""

    def __dealloc__(self):
        self.clear()
        PyMem_RawFree(self.heap)

    cdef int clear(self) except -1:
        cdef Timer timer
        while self.count:
            self.count -= 1
            timer = <Timer>self.heap[self.count].timer
            timer.place = -1
            Py_DECREF(timer)
        return 0

    cdef int add(self, Timer timer) except -1:
        cdef Entry *heap
        cdef Entry entry
        cdef Py_ssize_t room
        if self.count == self.room:
            room = self.room * 2 + 64
            heap = <Entry *>PyMem_RawRealloc(self.heap, room * sizeof(Entry))
            if heap == NULL:
                raise MemoryError
            self.heap = heap
            self.room = room
        self.order += 1
        entry.when = timer.when_ns
        entry.order = self.order
        entry.timer = <void *>timer
        Py_INCREF(timer)
        timer.timers = self
        self.count += 1
        self.rise(self.count - 1, entry)
        return 0

    cdef int remove(self, Timer timer) except -1:
        cdef Py_ssize_t i = timer.place
        cdef Entry last
        if i < 0:
            return 0
        timer.place = -1
        self.count -= 1
        if i != self.count:
            last = self.heap[self.count]
            if i > 0 and earlier(&last, &self.heap[(i - 1) >> 1]):
                self.rise(i, last)
            else:
                self.sink(i, last)
        Py_DECREF(timer)
        return 0

    cdef Timer pop(self):
        cdef Timer first = <Timer>self.heap[0].timer
        self.remove(first)
        return first

    cdef void rise(self, Py_ssize_t i, Entry entry) noexcept:
        cdef Py_ssize_t parent
        while i > 0:
            parent = (i - 1) >> 1
            if not earlier(&entry, &self.heap[parent]):
                break
            self.heap[i] = self.heap[parent]
            (<Timer>self.heap[i].timer).place = i
            i = parent
        self.heap[i] = entry
        (<Timer>entry.timer).place = i

    cdef void sink(self, Py_ssize_t i, Entry entry) noexcept:
        cdef Py_ssize_t child
        while True:
            child = 2 * i + 1
            if child >= self.count:
                break
            if child + 1 < self.count and earlier(&self.heap[child + 1], &self.heap[child]):
                child += 1
            if not earlier(&self.heap[child], &entry):
                break
            self.heap[i] = self.heap[child]
            (<Timer>self.heap[i].timer).place = i
            i = child
        self.heap[i] = entry
        (<Timer>entry.timer).place = i


cdef inline bint earlier(Entry *a, Entry *b) noexcept:
    return a.when < b.when or (a.when == b.when and a.order < b.order)
