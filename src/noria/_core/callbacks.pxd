"""Calls of callbacks, and the fields of a Handle (timers.pxd), in C.

Each callback costs what these do: they call no other function and take no temporary reference.
"""

from cpython.object cimport PyObject

cdef extern from *:
    """
    static inline PyObject *noria_call(PyObject *callback, PyObject *args, int single) {
        if (single) {
            /* The free place lets a bound method insert its object without a copy. */
            PyObject *stack[2] = {NULL, args};
            return PyObject_Vectorcall(callback, stack + 1, 1 | PY_VECTORCALL_ARGUMENTS_OFFSET,
                                       NULL);
        }
        return PyObject_Vectorcall(callback, &PyTuple_GET_ITEM(args, 0), PyTuple_GET_SIZE(args),
                                   NULL);
    }
    static inline int noria_run(PyObject *callback, PyObject *args, int single) {
        PyObject *result = noria_call(callback, args, single);
        if (result == NULL) return -1;
        Py_DECREF(result);
        return 0;
    }
    static inline int noria_run_within(PyObject *context, PyObject *callback, PyObject *args,
                                       int single) {
        int failed;
        if (PyContext_Enter(context) < 0) return -1;
        failed = noria_run(callback, args, single);
        return PyContext_Exit(context) < 0 ? -1 : failed;
    }
    /* Run a callback in a context, in a new one, or in the loop's; return -1 with an exception. */
    static inline int noria_run_callback(PyObject *callback, PyObject *args, int single,
                                         PyObject *context, PyObject *stands_for_empty) {
        int failed;
        if (context == Py_None) return noria_run(callback, args, single);
        if (context != stands_for_empty)
            return noria_run_within(context, callback, args, single);
        context = PyContext_New();
        if (context == NULL) return -1;
        failed = noria_run_within(context, callback, args, single);
        Py_DECREF(context);
        return failed;
    }
    #define noria_raise_if(failed) (failed)
    /* Call a function of a class with an object and one more argument. */
    static inline int noria_call_function(PyObject *function, PyObject *self, PyObject *arg) {
        PyObject *stack[3] = {NULL, self, arg}, *result;
        Py_INCREF(function);
        result = PyObject_Vectorcall(function, stack + 1, 2 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
        Py_DECREF(function);
        if (result == NULL) return -1;
        Py_DECREF(result);
        return 0;
    }
    """
    int run_callback "noria_run_callback"(PyObject *callback, PyObject *args, bint single,
                                          PyObject *context, PyObject *stands_for_empty) noexcept
    # Raises the exception of a run_callback that has returned -1.
    int raise_if "noria_raise_if"(int failed) except -1
    int call_function "noria_call_function"(PyObject *function, PyObject *self,
                                            PyObject *arg) except -1

cdef extern from *:
    """
    #define NoriaHandle struct __pyx_obj_5noria_5_core_6timers_Handle   /* by Cython's rule */
    #if PY_VERSION_HEX >= 0x030C0000    /* None is immortal */
    #define NORIA_NONE Py_None
    #else
    #define NORIA_NONE Py_NewRef(Py_None)
    #endif
    #define NORIA_SET(field, value) do {                            \
        PyObject *former = (PyObject *)(field);                     \
        (field) = (value);                                          \
        Py_DECREF(former);                                          \
    } while (0)
    #define noria_fill(handle, function, arguments, only, within) do {  \
        NoriaHandle *filled = (NoriaHandle *)(handle);              \
        filled->single = (only);                                    \
        NORIA_SET(filled->callback, Py_NewRef(function));           \
        NORIA_SET(filled->args, Py_NewRef(arguments));              \
        NORIA_SET(filled->context, Py_NewRef(within));              \
    } while (0)
    #define noria_empty(handle) do {                                \
        NoriaHandle *emptied = (NoriaHandle *)(handle);             \
        emptied->single = 0;                                        \
        NORIA_SET(emptied->callback, NORIA_NONE);                   \
        NORIA_SET(emptied->args, NORIA_NONE);                       \
        NORIA_SET(emptied->context, NORIA_NONE);                    \
    } while (0)
    #define noria_own_handle(handle) \
        (((NoriaHandle *)(handle))->dropped = 0, (PyObject *)(handle))
    """
    void fill_handle "noria_fill"(PyObject *handle, PyObject *callback, PyObject *args, bint single,
                                  PyObject *context) noexcept
    void empty_handle "noria_empty"(PyObject *handle) noexcept
    # The caller's reference to a handle that is no longer a spare.
    object own_handle "noria_own_handle"(PyObject *handle)

# A handle that has run is reused if the loop has the only counted reference, taken from the queue.
# Each uncounted reference of the interpreter (Python 3.14) implies another counted one: see
# message.pxd, whose messages are reused in the same way.
cdef extern from *:
    """
    static inline int noria_is_reusable(PyObject *o, PyObject *type) {
    #ifdef Py_GIL_DISABLED
        return 0;   /* Without the GIL a count of one proves nothing. */
    #else
        return Py_TYPE(o) == (PyTypeObject *)type && Py_REFCNT(o) == 1
            && *(PyObject **)((char *)o + Py_TYPE(o)->tp_weaklistoffset) == NULL;
    #endif
    }
    """
    bint is_reusable "noria_is_reusable"(PyObject *o, PyObject *exact_type)
