"""From a record's ticks to CLOCK_MONOTONIC in ns."""

from libc.stdint cimport int64_t, uint64_t

cdef enum:
    MIN_INTERVAL_NS = 20000000  # between two CLOCK records from which a rate is taken

cdef struct Clock:
    double nominal      # ns of a tick, as the header says: an estimate
    double scale        # ns of a tick
    uint64_t ticks      # at the last CLOCK record
    int64_t ns

cdef inline int64_t ns_of(Clock *clock, uint64_t ticks) noexcept nogil:
    return clock.ns + <int64_t>(<double><int64_t>(ticks - clock.ticks) * clock.scale)

cdef inline void set_clock(Clock *clock, uint64_t ticks, uint64_t monotonic) noexcept nogil:
    """Take a CLOCK record; one that cannot be true is ignored."""
    cdef int64_t elapsed = <int64_t>(ticks - clock.ticks)
    cdef int64_t ns = <int64_t>monotonic - clock.ns
    cdef double scale
    if monotonic >> 61 or elapsed <= 0 or ns <= 0:
        return
    scale = <double>ns / <double>elapsed
    # The estimate may be wrong by a few per cent.
    if not 0.8 < scale / clock.nominal < 1.25:
        return
    if ns > MIN_INTERVAL_NS:
        clock.scale = scale
    clock.ticks = ticks
    clock.ns = <int64_t>monotonic
