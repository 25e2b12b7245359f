from cpython.object cimport PyObject
from libc.stdint cimport int64_t

from noria._core.contract cimport Target
from noria._core.loop cimport Loop
from noria._core.timers cimport Handle, Timer

cdef extern from *:
    """
    static inline void noria_replace_item(PyObject *list, Py_ssize_t i, PyObject *item) {
        PyObject *former = PyList_GET_ITEM(list, i);
        Py_INCREF(item);
        PyList_SET_ITEM(list, i, item);
        Py_DECREF(former);
    }
    """
    void replace_item "noria_replace_item"(list items, Py_ssize_t i, object item)

cdef enum:
    MAX_SPARE_HANDLES = 128
    MAX_DEFERRED_WRITES = 64

cdef class Scheduler(Loop):
    cdef bint debugging
    # whether `time` was replaced: timers then follow it
    cdef bint time_replaced
    # whether a subclass overrides `call_at`, which asyncio's call_later calls
    cdef public bint call_at_overridden
    # asyncio's methods get and set it, too
    cdef public object _task_factory
    # {"loop": self}: the keyword arguments of most tasks and futures
    cdef dict loop_option
    # handles that have run and have no other reference; owned
    cdef PyObject *spare_handles[128]
    cdef int spare_handle_count
    # connections with data to send at the end of the turn: a list of MAX_DEFERRED_WRITES entries,
    # of which those from corked_first to corked_end - 1 are in use; the others are None
    cdef list corked
    cdef Py_ssize_t corked_first
    cdef Py_ssize_t corked_end
    # number of writes deferred in this turn
    cdef unsigned deferred_writes
    # tick of the coarse clock at the first of them
    cdef int64_t deferring_since
    # unlike Loop.turns, it wraps around
    cdef unsigned turn_number
    cdef int end_turn(self) except -1
    cdef bint may_defer_write(self) except -1
    cdef bint cork(self, object stream) noexcept
    cdef int flush_deferred_writes(self) except -1
    cdef int handle_all(self) except -1
    cdef int handle_debugged(self) except -1
    cdef int record_task(self, object task, object coro, object name) noexcept
    cdef int record_debug_begin(self, Target target) noexcept
    cdef int turn_until_error(self) except -1
    cdef int handle_callback_error(self, object error) except -1
    cdef Handle make_handle(self, object callback, object args, bint single, object context)
    cdef Timer start_timer(self, double seconds, object callback, object args, bint single,
                           object context)
    cdef object start_task(self, object coro, object name, object context)
    cdef int report_exception(self, str message, object error, dict more) except -1
