"""Durations, counted in buckets whose upper bounds are at most 12.5% apart: eight for each power
of two."""

from libc.stdint cimport int64_t, uint64_t

cdef enum:
    BUCKETS = 488       # of all values below 2**63

cdef extern from *:
    """
    #define noria_top_bit(value) (63 - __builtin_clzll(value))
    """
    int top_bit "noria_top_bit"(uint64_t value) noexcept nogil

cdef struct Histogram:
    uint64_t count
    int64_t total
    int64_t longest
    uint64_t buckets[BUCKETS]

cdef inline int bucket_of(int64_t value) noexcept nogil:
    cdef int bit
    if value < 8:
        return <int>value
    bit = top_bit(<uint64_t>value)
    return (bit - 2) * 8 + <int>((value >> (bit - 3)) & 7)

cdef inline int64_t bound_of(int bucket) noexcept nogil:
    """The largest value of a bucket."""
    if bucket < 8:
        return bucket
    return (<int64_t>(9 + (bucket & 7)) << ((bucket >> 3) - 1)) - 1

cdef inline void count_value(Histogram *histogram, int64_t value) noexcept nogil:
    if value < 0:
        value = 0
    histogram.count += 1
    histogram.total += value
    if value > histogram.longest:
        histogram.longest = value
    histogram.buckets[bucket_of(value)] += 1
