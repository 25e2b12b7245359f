"""Compiled methods of the class SocketTransport.

That class is a subclass of asyncio.Transport, so it cannot be an extension type. `install` gives it
method descriptors, as built-in types have them: the interpreter calls their C functions without a
frame and without a bound method, and these find the connection at a fixed offset of the transport.
"""

from cpython.object cimport PyObject

from noria._core.aio.connection cimport Connection

cdef extern from *:
    """
    #if PY_VERSION_HEX < 0x030C0000     /* Python.h has PyMemberDef from Python 3.12 on */
    #include <structmember.h>
    #endif

    /* The offset of a slot of __slots__, or -1 with an exception. */
    static Py_ssize_t noria_slot_offset(PyObject *type, const char *name) {
        Py_ssize_t offset = -1;
        PyObject *slot = PyObject_GetAttrString(type, name);
        if (slot == NULL) return -1;
        if (Py_TYPE(slot) == &PyMemberDescr_Type)
            offset = ((PyMemberDescrObject *)slot)->d_member->offset;
        else
            PyErr_Format(PyExc_TypeError, "%s is not a slot", name);
        Py_DECREF(slot);
        return offset;
    }
    #define noria_new_method(type, definition) PyDescr_NewMethod((PyTypeObject *)(type), definition)
    """
    ctypedef void *PyCFunction
    ctypedef struct PyMethodDef:
        const char *ml_name
        PyCFunction ml_meth
        int ml_flags
        const char *ml_doc
    int METH_FASTCALL, METH_KEYWORDS
    Py_ssize_t slot_offset "noria_slot_offset"(object cls, const char *name) except -1
    object new_method "noria_new_method"(object cls, PyMethodDef *definition)

ctypedef object (*Method)(object, PyObject **, Py_ssize_t, PyObject *)

cdef enum:
    METHOD_COUNT = 7

cdef PyMethodDef definitions[METHOD_COUNT]
cdef Py_ssize_t connection_offset = 0


cdef inline Connection connection_of(object transport):
    cdef PyObject *connection = (<PyObject **>(<char *><PyObject *>transport
                                               + connection_offset))[0]
    if connection == NULL:
        raise AttributeError("the transport has no connection")
    return <Connection?><object>connection


cdef object only_argument(str method, str name, PyObject **arguments, Py_ssize_t count,
                          PyObject *names):
    """The argument of a method with one parameter. Raises TypeError for other arguments."""
    if count + (0 if names == NULL else len(<tuple>names)) != 1:
        raise TypeError(f"{method}() takes exactly one argument")
    if count == 0 and (<tuple>names)[0] != name:
        raise TypeError(f"{method}() got an unexpected keyword argument {(<tuple>names)[0]!r}")
    return <object>arguments[0]


cdef int no_argument(str method, Py_ssize_t count, PyObject *names) except -1:
    if count or names != NULL:
        raise TypeError(f"{method}() takes no arguments")
    return 0


cdef object write(object transport, PyObject **arguments, Py_ssize_t count, PyObject *names):
    cdef Connection connection = connection_of(transport)
    if count == 1 and names == NULL:
        # Called directly: Connection has no subclass.
        Connection.write(connection, <object>arguments[0])
    else:
        connection.write(only_argument("write", "data", arguments, count, names))


cdef object writelines(object transport, PyObject **arguments, Py_ssize_t count, PyObject *names):
    connection_of(transport).writelines(
        only_argument("writelines", "list_of_data", arguments, count, names))


cdef object is_closing(object transport, PyObject **arguments, Py_ssize_t count, PyObject *names):
    cdef Connection connection = connection_of(transport)
    if count or names != NULL:
        no_argument("is_closing", count, names)
    return connection.closing != 0 or connection.closed != 0


cdef object close(object transport, PyObject **arguments, Py_ssize_t count, PyObject *names):
    no_argument("close", count, names)
    connection_of(transport).close()


cdef object abort(object transport, PyObject **arguments, Py_ssize_t count, PyObject *names):
    no_argument("abort", count, names)
    connection_of(transport).abort()


cdef object pause_reading(object transport, PyObject **arguments, Py_ssize_t count,
                          PyObject *names):
    no_argument("pause_reading", count, names)
    connection_of(transport).pause_reading()


cdef object resume_reading(object transport, PyObject **arguments, Py_ssize_t count,
                           PyObject *names):
    no_argument("resume_reading", count, names)
    connection_of(transport).resume_reading()


cdef int define(int index, const char *name, Method method, const char *doc) except -1:
    definitions[index].ml_name = name
    definitions[index].ml_meth = <PyCFunction>method
    definitions[index].ml_flags = METH_FASTCALL | METH_KEYWORDS
    definitions[index].ml_doc = doc
    return 0


define(0, "write", write,
       b"write($self, data)\n--\n\nSend data; keep what the socket does not take.")
define(1, "writelines", writelines,
       b"writelines($self, list_of_data)\n--\n\nSend several buffers in order.")
define(2, "is_closing", is_closing,
       b"is_closing($self)\n--\n\nWhether the transport is closing or closed.")
define(3, "close", close,
       b"close($self)\n--\n\nStop receiving, send the write buffer, then close the connection.")
define(4, "abort", abort,
       b"abort($self)\n--\n\nClose the connection now; discard the write buffer.")
define(5, "pause_reading", pause_reading,
       b"pause_reading($self)\n--\n\n"
       b"Stop calling data_received; hold data that is in transit until resume_reading.")
define(6, "resume_reading", resume_reading,
       b"resume_reading($self)\n--\n\nCall data_received again after pause_reading.")


def install(cls):
    """Add the methods to a class that has its connection in the slot `_connection`."""
    global connection_offset
    cdef int i
    connection_offset = slot_offset(cls, "_connection")
    for i in range(METHOD_COUNT):
        setattr(cls, definitions[i].ml_name.decode(), new_method(cls, &definitions[i]))
