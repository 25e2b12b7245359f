"""The figures of an analysis as Python objects."""

from noria._core.recorder.state cimport State

cdef dict loop_figures(State *s)
cdef list task_figures(State *s, Py_ssize_t limit, object also)
cdef list connection_figures(State *s, Py_ssize_t limit)
cdef list sample_figures(State *s)
