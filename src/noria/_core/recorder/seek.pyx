"""A time's place in the records of a loop, and the clock there, to read only a part of them."""

from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer

from noria._core.recorder.clock cimport Clock, ns_of, set_clock
from noria._core.recorder.events cimport CLOCK, KIND_MASK, RECORD_SIZE, Record

from noria._core.recorder.analysis import checked_header


cdef struct Position:
    Clock clock
    int64_t now         # time of the last record that was read
    bint found


cdef Py_ssize_t find(Position *p, const char *place, Py_ssize_t count, int64_t time) noexcept nogil:
    """Return how many records are before *time*."""
    cdef Record record
    cdef Py_ssize_t i
    for i in range(count):
        memcpy(&record, place + i * RECORD_SIZE, RECORD_SIZE)
        p.now = max(p.now, ns_of(&p.clock, record.stamp >> 8))
        if p.now >= time:
            p.found = True
            return i
        if record.stamp & KIND_MASK == CLOCK:
            set_clock(&p.clock, record.stamp >> 8, record.a)
    return count


def seek(header, parts, int64_t time):
    """Find the first record at or after a time (CLOCK_MONOTONIC in ns).

    Args:
        header: the ring's, as in the recording's object "loop".
        parts: the loop's records, in order: Recording.records(loop).

    Returns a tuple: the number of records before it; its time in ns (if there is none, the last
    record's, and 0 without records); and a header with which the records from there on have the
    times that they have in the whole. Raises RecordingError for an impossible header.
    """
    cdef Position p
    cdef Py_buffer view
    cdef Py_ssize_t before = 0
    cdef int64_t base
    memset(&p, 0, sizeof(Position))
    scale, monotonic, realtime = checked_header(header)
    p.clock.nominal = p.clock.scale = scale
    p.clock.ns = monotonic
    for part in parts:
        PyObject_GetBuffer(part, &view, PyBUF_SIMPLE)
        try:
            with nogil:
                before += find(&p, <const char *>view.buf, view.len // RECORD_SIZE, time)
        finally:
            PyBuffer_Release(&view)
        if p.found:
            break
    base = max(ns_of(&p.clock, 0), 0)
    there = {
        **header,
        "ns_per_tick": p.clock.scale,
        "monotonic_base_ns": base,
        "realtime_base_ns": realtime + base - monotonic,
    }
    return before, p.now, there
