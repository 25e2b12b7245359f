"""C functions for the methods of the scheduler that run most often.

They take the arguments of the usual calls without a tuple and a dict, and pass all other calls to
the methods in scheduler.pyx.
"""

from cpython.float cimport PyFloat_AS_DOUBLE
from cpython.long cimport PyLong_AsDouble
from cpython.object cimport PyObject

from noria._core.aio.scheduler cimport Scheduler
from noria._core.callbacks cimport fill_handle, own_handle
from noria._core.contract cimport CALL, queue_put
from noria._core.loop cimport Loop
from noria._core.timers cimport Handle

from sys import intern

cdef extern from *:
    """
    /* The arguments after the callback: the only one, or a tuple. */
    static inline PyObject *noria_arguments(PyObject *const *args, Py_ssize_t nargs) {
        if (nargs == 1) return Py_NewRef(args[0]);
        PyObject *tuple = PyTuple_New(nargs);
        if (tuple != NULL)
            for (Py_ssize_t i = 0; i < nargs; i++) PyTuple_SET_ITEM(tuple, i, Py_NewRef(args[i]));
        return tuple;
    }

    static PyMethodDef noria_methods[] = {
        {"call_soon", NULL, METH_FASTCALL | METH_KEYWORDS, NULL},
        {"call_later", NULL, METH_FASTCALL | METH_KEYWORDS, NULL},
        {"create_task", NULL, METH_FASTCALL | METH_KEYWORDS, NULL},
    };

    /* A descriptor of the method for `type`, a subclass. */
    static PyObject *noria_method(PyObject *type, PyObject *method, int fast, void *function) {
        PyMethodDef *def = ((PyMethodDescrObject *)method)->d_method;
        if (fast >= 0) {
            noria_methods[fast].ml_doc = def->ml_doc;
            noria_methods[fast].ml_meth = (PyCFunction)function;
            def = &noria_methods[fast];
        }
        return PyDescr_NewMethod((PyTypeObject *)type, def);
    }
    """
    object noria_arguments(PyObject **args, Py_ssize_t nargs)
    object noria_method(object cls, object method, int fast, void *function)
    Py_ssize_t PyTuple_GET_SIZE(PyObject *names)
    PyObject *PyTuple_GET_ITEM(PyObject *names, Py_ssize_t i)

cdef tuple NO_ARGS = ()
cdef str CONTEXT = intern("context")
cdef str NAME = intern("name")
# asyncio's compiled module passes a string of its own as the name, which is kept here
cdef object context_elsewhere = CONTEXT
cdef type MethodDescriptor = type(Scheduler.call_soon)
cdef object general_call_soon = Scheduler.call_soon
cdef object general_call_later = Scheduler.call_later
cdef object general_create_task = Scheduler.create_task


cdef inline bint only_context(PyObject *names) except -1:
    """Whether there are no keyword arguments, or only `context`."""
    if names == NULL:
        return True
    if PyTuple_GET_SIZE(names) == 1 \
            and PyTuple_GET_ITEM(names, 0) == <PyObject *>context_elsewhere:
        return True
    return names_context(names)


cdef bint names_context(PyObject *names) except -1:
    global context_elsewhere
    cdef PyObject *name
    if PyTuple_GET_SIZE(names) != 1:
        return False
    name = PyTuple_GET_ITEM(names, 0)
    if name == <PyObject *>CONTEXT:
        return True
    if <object>name != CONTEXT:
        return False
    context_elsewhere = <object>name
    return True


cdef object call_general(object method, Scheduler self, PyObject **args, Py_ssize_t nargs,
                         PyObject *names):
    cdef Py_ssize_t i
    cdef list positional = [self]
    cdef dict named = {}
    for i in range(nargs):
        positional.append(<object>args[i])
    if names != NULL:
        for i in range(PyTuple_GET_SIZE(names)):
            named[<object>PyTuple_GET_ITEM(names, i)] = <object>args[nargs + i]
    return method(*positional, **named)


cdef object fast_call_soon(Scheduler self, PyObject **args, Py_ssize_t nargs, PyObject *names):
    cdef Handle handle
    cdef object arguments
    if nargs < 1 or self.closed or self.debugging or not only_context(names):
        return call_general(general_call_soon, self, args, nargs, names)
    if nargs > 2 or names == NULL or <object>args[nargs] is None or not self.spare_handle_count:
        arguments = NO_ARGS if nargs == 1 else noria_arguments(args + 1, nargs - 1)
        handle = self.make_handle(<object>args[0], arguments, nargs == 2,
                                  None if names == NULL else <object>args[nargs])
        queue_put(self.queue, handle, CALL, 0, NULL)
        return handle
    # Futures and tasks call it so. The handle is in the array until the queue has it.
    fill_handle(self.spare_handles[self.spare_handle_count - 1], args[0],
                <PyObject *>NO_ARGS if nargs == 1 else args[1], nargs == 2, args[nargs])
    queue_put(self.queue, <Handle>self.spare_handles[self.spare_handle_count - 1], CALL, 0, NULL)
    self.spare_handle_count -= 1
    return own_handle(self.spare_handles[self.spare_handle_count])


cdef object fast_call_later(Scheduler self, PyObject **args, Py_ssize_t nargs, PyObject *names):
    cdef double seconds
    if nargs < 2 or self.closed or self.debugging or self.call_at_overridden \
            or not only_context(names):
        return call_general(general_call_later, self, args, nargs, names)
    if type(<object>args[0]) is float:
        seconds = PyFloat_AS_DOUBLE(<object>args[0])
    elif type(<object>args[0]) is int:
        seconds = PyLong_AsDouble(<object>args[0])
    else:
        return call_general(general_call_later, self, args, nargs, names)
    return self.start_timer(
        seconds,
        <object>args[1],
        NO_ARGS if nargs == 2 else noria_arguments(args + 2, nargs - 2),
        nargs == 3,
        None if names == NULL else <object>args[nargs])


cdef object fast_create_task(Scheduler self, PyObject **args, Py_ssize_t nargs, PyObject *names):
    if nargs == 1 and not (self.closed or self.debugging) and self._task_factory is None:
        if names == NULL:
            return self.start_task(<object>args[0], None, None)
        if PyTuple_GET_SIZE(names) == 1:
            if PyTuple_GET_ITEM(names, 0) == <PyObject *>NAME:
                return self.start_task(<object>args[0], <object>args[1], None)
            if PyTuple_GET_ITEM(names, 0) == <PyObject *>CONTEXT:
                return self.start_task(<object>args[0], None, <object>args[1])
    return call_general(general_create_task, self, args, nargs, names)


def add_fast_methods(cls):
    """Give a subclass its own descriptors of the methods that run often.

    A descriptor of the class itself is called without searching the base classes for its own.
    """
    for name, method in [*vars(Loop).items(), *vars(Scheduler).items()]:
        if type(method) is MethodDescriptor and getattr(cls, name) is method:
            if name == "call_soon":
                method = noria_method(cls, method, 0, <void *>fast_call_soon)
            elif name == "call_later":
                method = noria_method(cls, method, 1, <void *>fast_call_later)
            elif name == "create_task":
                method = noria_method(cls, method, 2, <void *>fast_create_task)
            else:
                method = noria_method(cls, method, -1, NULL)
            setattr(cls, name, method)
