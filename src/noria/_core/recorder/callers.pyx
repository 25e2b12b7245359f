"""The program's line that has caused something: the innermost frame that no library has.

Frames of noria and of the standard library are passed over. Where the program itself has no frame,
it is the innermost one of an installed package. The search ends at the frame that runs the loop:
what is below it has not caused anything.
"""

from cpython.object cimport PyObject
from libc.stdint cimport uint32_t, uint64_t

from noria._core.recorder.events cimport RecordKind
from noria._core.recorder.record cimport Ring, identify, record

import os

cdef extern from *:
    # New references, but for the first.
    """
    #define noria_frame() ((PyObject *)PyEval_GetFrame())
    #define noria_frame_back(frame) ((PyObject *)PyFrame_GetBack((PyFrameObject *)(frame)))
    #define noria_frame_code(frame) ((PyObject *)PyFrame_GetCode((PyFrameObject *)(frame)))
    #define noria_frame_line(frame) PyFrame_GetLineNumber((PyFrameObject *)(frame))
    """
    PyObject *frame_back "noria_frame_back"(PyObject *frame) noexcept
    PyObject *frame_code "noria_frame_code"(PyObject *frame) noexcept
    int frame_line "noria_frame_line"(PyObject *frame) noexcept
    PyObject *current_frame "noria_frame"() noexcept
    void Py_INCREF(PyObject *o) noexcept
    void Py_DECREF(PyObject *o) noexcept
    void Py_XDECREF(PyObject *o) noexcept

cdef enum:
    MAX_FRAMES = 256    # that are searched

cdef str standard_library = os.path.dirname(os.__file__) + os.sep
cdef str noria_package = os.path.dirname(os.path.dirname(os.path.dirname(__file__))) + os.sep
cdef tuple PACKAGES = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
# file name -> Origin
cdef dict known_files = {}

cdef enum Origin:
    PASSED_OVER
    PACKAGE
    PROGRAM


cdef int origin_of(str file) except -1:
    """Say whether a file belongs to the program, or to a package that it has installed."""
    if file.startswith((noria_package, "<frozen ")):
        return PASSED_OVER
    if any(part in file for part in PACKAGES):
        return PACKAGE
    return PASSED_OVER if file.startswith(standard_library) else PROGRAM


cdef int origin_of_code(PyObject *code) except -1:
    cdef object file = (<object>code).co_filename
    cdef object known = known_files.get(file)
    if known is None:
        known = known_files[file] = origin_of(file)
    return known


cdef void write_caller(Ring *ring, int fd, PyObject *base_frame) noexcept:
    cdef PyObject *frame = current_frame()
    cdef PyObject *code
    cdef PyObject *back
    cdef uint64_t package = 0
    cdef uint32_t package_line = 0
    cdef int searched = 0
    cdef int origin
    if frame == NULL:
        return
    Py_INCREF(frame)
    try:
        while frame != NULL and frame != base_frame and searched < MAX_FRAMES:
            searched += 1
            code = frame_code(frame)
            try:
                origin = origin_of_code(code)
                if origin == PROGRAM:
                    record(ring, RecordKind.CALLER,
                           <uint32_t>fd | <uint64_t>frame_line(frame) << 32, identify(ring, code))
                    return
                if origin == PACKAGE and package == 0:
                    package = identify(ring, code)
                    package_line = <uint32_t>frame_line(frame)
            finally:
                Py_DECREF(code)
            back = frame_back(frame)
            Py_DECREF(frame)
            frame = back
        if package:
            record(ring, RecordKind.CALLER, <uint32_t>fd | <uint64_t>package_line << 32, package)
    except BaseException:
        pass
    finally:
        Py_XDECREF(frame)
