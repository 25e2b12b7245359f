"""What a callback is: its code, and the task whose step it is.

What shaped this file:

- It runs before each callback while a recorder is attached: the usual callbacks (functions,
  methods, steps of compiled tasks) are recognised by their type, without an attribute access.
- asyncio's compiled task passes call_soon an object that has no name in Python
  (TaskStepMethWrapper) or a built-in method, task_wakeup.
  Where the first one has its task, and the task its coroutine,
  is found out with a task made for that: nothing is assumed about CPython's structures. If that
  fails, `__self__` and `get_coro` are used.
"""

from cpython.object cimport PyObject
from libc.stdint cimport uint64_t
from libc.string cimport strcmp

from noria._core.recorder.events cimport RecordKind
from noria._core.recorder.record cimport (
    BUILTIN_IDS, BuiltinId, Ring, identify, identify_type, is_function, is_known, record,
    record_handler, type_of, PyFunction_GET_CODE,
)

import asyncio
from asyncio import tasks
from functools import partial
from types import CodeType, FunctionType

cdef extern from *:
    """
    #define noria_is_method(o) Py_IS_TYPE(o, &PyMethod_Type)
    #define noria_is_builtin(o) PyObject_TypeCheck(o, &PyCFunction_Type)
    #define noria_is_type(o) PyType_Check(o)
    #define noria_is_coroutine(o) Py_IS_TYPE(o, &PyCoro_Type)
    #define noria_is_context(o) Py_IS_TYPE(o, &PyContext_Type)
    #define noria_is_tuple(o) PyTuple_CheckExact(o)
    #define noria_builtin_self(o) (((PyCFunctionObject *)(o))->m_self)
    #define noria_builtin_definition(o) ((void *)((PyCFunctionObject *)(o))->m_ml)
    #define noria_builtin_name(o) (((PyCFunctionObject *)(o))->m_ml->ml_name)
    #define noria_is_instance(o, type) PyObject_TypeCheck(o, (PyTypeObject *)(type))
    #define noria_field(o, offset) (*(PyObject **)((char *)(o) + (offset)))
    /* A borrowed reference: the coroutine keeps its code alive. */
    static inline PyObject *noria_coroutine_code(PyObject *o) {
    #if PY_VERSION_HEX >= 0x030C0000
        PyObject *code = (PyObject *)PyGen_GetCode((PyGenObject *)o);
        Py_DECREF(code);
        return code;
    #else
        return (PyObject *)((PyGenObject *)o)->gi_code;
    #endif
    }
    """
    bint is_method "noria_is_method"(PyObject *o) noexcept
    bint is_builtin "noria_is_builtin"(PyObject *o) noexcept
    bint is_type "noria_is_type"(PyObject *o) noexcept
    bint is_coroutine "noria_is_coroutine"(PyObject *o) noexcept
    bint is_context "noria_is_context"(PyObject *o) noexcept
    bint is_tuple "noria_is_tuple"(PyObject *o) noexcept
    bint is_instance "noria_is_instance"(PyObject *o, PyObject *type) noexcept
    PyObject *builtin_self "noria_builtin_self"(PyObject *o) noexcept
    void *builtin_definition "noria_builtin_definition"(PyObject *o) noexcept
    const char *builtin_name "noria_builtin_name"(PyObject *o) noexcept
    PyObject *field "noria_field"(PyObject *o, Py_ssize_t offset) noexcept
    PyObject *coroutine_code "noria_coroutine_code"(PyObject *o) noexcept
    PyObject *PyMethod_GET_FUNCTION(PyObject *o) noexcept
    PyObject *PyMethod_GET_SELF(PyObject *o) noexcept
    Py_ssize_t PyTuple_GET_SIZE(PyObject *o) noexcept
    PyObject *PyTuple_GET_ITEM(PyObject *o, Py_ssize_t i) noexcept

cdef enum:
    UNKNOWN = -1
    MAX_PARTIALS = 8        # within each other

# Of asyncio's compiled tasks; UNKNOWN or NULL as long as `find_task_layout` has not found it.
cdef bint searched = False
cdef PyObject *task_type = NULL
cdef PyObject *step_type = NULL             # of the callback that makes a step
cdef Py_ssize_t task_in_step = UNKNOWN      # offsets in bytes
cdef Py_ssize_t coroutine_in_task = UNKNOWN
cdef void *wakeup_definition = NULL         # of the built-in method task_wakeup
# Code objects of the steps of a task that is implemented in Python; as they are found.
cdef PyObject *python_step = NULL
cdef PyObject *python_wakeup = NULL
cdef str tasks_file = tasks.__file__
cdef object Task = asyncio.Task
cdef object Partial = partial


class ProbeLoop:
    """Takes the callback that a new task passes to call_soon."""

    def __init__(self):
        self.step = None

    def call_soon(self, callback, *args, context=None):
        self.step = callback

    def call_exception_handler(self, context):
        pass    # the task is never run

    def get_debug(self):
        return False


async def do_nothing():
    pass


cdef Py_ssize_t offset_of(object o, object value):
    """The offset at which the object has a pointer to the value, or UNKNOWN."""
    cdef Py_ssize_t offset = sizeof(PyObject)
    cdef Py_ssize_t size = type(o).__basicsize__
    while offset + <Py_ssize_t>sizeof(void *) <= size:
        if field(<PyObject *>o, offset) == <PyObject *>value:
            return offset
        offset += sizeof(void *)
    return UNKNOWN


def probe_task():
    """Return (type of the step, offset of its task, offset of the task's coroutine)."""
    loop = ProbeLoop()
    coroutine = do_nothing()
    try:
        task = Task(coroutine, loop=loop)
        step = loop.step
        if type(step) in (FunctionType, type(ProbeLoop().call_soon), type(len)):
            return None
        found = (type(step), offset_of(step, task), offset_of(task, coroutine))
        return found if step.__self__ is task and min(found[1:]) > 0 else None
    finally:
        coroutine.close()


def task_layout():
    """Return what `probe_task` has found, or None: twice, with two tasks, the same."""
    try:
        first, second = probe_task(), probe_task()
    except Exception:
        return None
    return first if first == second else None


cdef int find_task_layout() except -1:
    """Find out how asyncio's tasks look in memory, once."""
    global searched, task_type, step_type, task_in_step, coroutine_in_task
    if searched:
        return 0
    searched = True
    layout = task_layout()
    if layout is not None and isinstance(Task, type):
        # These types are never freed: they belong to a module that stays imported.
        step_type = <PyObject *>layout[0]
        task_in_step, coroutine_in_task = layout[1], layout[2]
        task_type = <PyObject *>Task
    return 0


cdef uint64_t identify_coroutine(Ring *ring, PyObject *coroutine) noexcept:
    """The id of a coroutine's code, or of its type if it has none."""
    cdef object o
    if coroutine == NULL:
        return 0
    if is_coroutine(coroutine):
        return identify(ring, coroutine_code(coroutine))
    try:
        o = <object>coroutine
        for name in ("cr_code", "gi_code", "ag_code"):
            code = getattr(o, name, None)
            if isinstance(code, CodeType):
                return identify(ring, <PyObject *>code)
    except BaseException:
        pass
    return identify_type(ring, coroutine)


cdef uint64_t identify_task(Ring *ring, PyObject *task) noexcept:
    """The id of the code of a task's coroutine; 0 if the task has ended."""
    if task_type != NULL and is_instance(task, task_type):
        return identify_coroutine(ring, field(task, coroutine_in_task))
    try:
        coroutine = (<object>task).get_coro()
        return 0 if coroutine is None else identify_coroutine(ring, <PyObject *>coroutine)
    except BaseException:
        return 0


cdef void record_step(Ring *ring, PyObject *task, uint64_t tail, int kind) noexcept:
    record_handler(ring, RecordKind.STEP if kind == RecordKind.CALL else RecordKind.TIMER_STEP,
                   identify_task(ring, task), tail, <uint64_t>task)


cdef bint is_python_step(PyObject *code) noexcept:
    """Whether this is the code of a step of asyncio's task in Python; it is then kept."""
    global python_step, python_wakeup
    cdef object o = <object>code
    try:
        if o.co_filename != tasks_file:
            return False
        # It belongs to a class of a module that stays imported.
        if o.co_qualname == "Task.__step":
            python_step = code
            return True
        if o.co_qualname == "Task.__wakeup":
            python_wakeup = code
            return True
    except BaseException:
        pass
    return False


cdef void record_builtin(Ring *ring, PyObject *callback, PyObject *args, uint64_t tail,
                         int kind) noexcept:
    """Record a built-in function or method."""
    cdef PyObject *owner = builtin_self(callback)
    cdef void *definition = builtin_definition(callback)
    cdef PyObject *first = args
    if owner != NULL:
        if definition == wakeup_definition or is_wakeup(callback, owner):
            record_step(ring, owner, tail, kind)
            return
        if is_context(owner) and args != NULL and strcmp(builtin_name(callback), b"run") == 0:
            if is_tuple(args):
                first = PyTuple_GET_ITEM(args, 0) if PyTuple_GET_SIZE(args) else NULL
            if first != NULL:
                write_call(ring, first, NULL, tail, kind)
                return
    record_handler(ring, kind, identify_builtin(ring, callback, owner, definition), tail,
                   <uint64_t>owner)


cdef bint is_wakeup(PyObject *callback, PyObject *owner) noexcept:
    """Whether a built-in method is task_wakeup of a task."""
    global wakeup_definition
    cdef bint of_task = False
    if strcmp(builtin_name(callback), b"task_wakeup") != 0:
        return False
    if task_type != NULL:
        of_task = is_instance(owner, task_type)
    else:
        try:
            of_task = isinstance(<object>owner, Task)
        except BaseException:
            pass
    if of_task:
        wakeup_definition = builtin_definition(callback)
    return of_task


cdef uint64_t identify_builtin(Ring *ring, PyObject *callback, PyObject *owner,
                               void *definition) noexcept:
    """The id of a built-in's name, with its type's name in front."""
    cdef PyObject *type = NULL if owner == NULL else type_of(owner)
    cdef BuiltinId *entry = &ring.builtins[(<size_t>definition >> 4) & (BUILTIN_IDS - 1)]
    cdef object name
    if entry.definition == definition and entry.type == type and definition != NULL:
        return entry.id
    try:
        name = (<object>callback).__qualname__
        if isinstance(name, str):
            if type != NULL:
                identify(ring, type)    # keeps it, so that its address stays its own
            entry.definition = definition
            entry.type = type
            entry.id = identify(ring, <PyObject *>name)
            return entry.id
    except BaseException:
        pass
    return identify_type(ring, callback)


cdef void record_other(Ring *ring, PyObject *callback, PyObject *args, uint64_t tail,
                       int kind) noexcept:
    """Record a callback that is none of the usual ones."""
    cdef object o = <object>callback
    cdef object code = None
    cdef int depth = 0
    try:
        while isinstance(o, Partial) and depth < MAX_PARTIALS:
            o = o.func
            depth += 1
        if depth:
            write_call(ring, <PyObject *>o, NULL, tail, kind)
            return
        if step_type == NULL and isinstance(getattr(o, "__self__", None), Task):
            record_step(ring, <PyObject *>o.__self__, tail, kind)
            return
        code = getattr(o, "__code__", None)             # of a function that Cython has compiled
        if not isinstance(code, CodeType):
            code = getattr(type(o).__call__, "__code__", None)
        if isinstance(code, CodeType):
            record_handler(ring, kind, identify(ring, <PyObject *>code), tail, <uint64_t>callback)
            return
    except BaseException:
        pass
    record_handler(ring, kind, identify_type(ring, callback), tail, <uint64_t>callback)


cdef void write_call(Ring *ring, PyObject *callback, PyObject *args, uint64_t tail,
                     int kind) noexcept:
    cdef PyObject *code
    cdef PyObject *type = type_of(callback)
    if is_function(callback):
        code = PyFunction_GET_CODE(callback)
        record_handler(ring, kind, identify(ring, code), tail, 0)
    elif type == step_type:
        record_step(ring, field(callback, task_in_step), tail, kind)
    elif is_method(callback) and is_function(PyMethod_GET_FUNCTION(callback)):
        code = PyFunction_GET_CODE(PyMethod_GET_FUNCTION(callback))
        if code == python_step or code == python_wakeup \
                or (not is_known(ring, code) and is_python_step(code)):
            record_step(ring, PyMethod_GET_SELF(callback), tail, kind)
        else:
            record_handler(ring, kind, identify(ring, code), tail,
                           <uint64_t>PyMethod_GET_SELF(callback))
    elif is_type(callback):
        record_handler(ring, kind, identify(ring, callback), tail, 0)
    elif is_builtin(callback):
        record_builtin(ring, callback, args, tail, kind)
    else:
        record_other(ring, callback, args, tail, kind)


cdef void write_task(Ring *ring, PyObject *task, PyObject *coroutine, PyObject *name) noexcept:
    cdef object text
    record(ring, RecordKind.TASK_CREATED, identify_coroutine(ring, coroutine), <uint64_t>task)
    try:
        if <object>name is not None:
            text = str(<object>name)
            record(ring, RecordKind.TASK_NAMED, identify(ring, <PyObject *>text), <uint64_t>task)
    except BaseException:
        pass
