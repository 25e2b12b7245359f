"""What a callback is: its code, and the task whose step it is."""

from cpython.object cimport PyObject
from libc.stdint cimport uint64_t

from noria._core.recorder.record cimport Ring

# Write the record of a callback that is about to be called: `kind` is CALL or TIMER_CALL, which
# becomes STEP or TIMER_STEP for a task's step. `args` is the first argument, their tuple, or NULL.
cdef void write_call(Ring *ring, PyObject *callback, PyObject *args, uint64_t tail,
                     int kind) noexcept

# TASK_CREATED, and TASK_NAMED unless `name` is None.
cdef void write_task(Ring *ring, PyObject *task, PyObject *coroutine, PyObject *name) noexcept

cdef uint64_t identify_coroutine(Ring *ring, PyObject *coroutine) noexcept
cdef uint64_t identify_task(Ring *ring, PyObject *task) noexcept
cdef int find_task_layout() except -1
