# cython: language_level=3
"""A histogram of latencies in nanoseconds, with buckets at most 0.8% wide."""

from libc.stdint cimport int64_t, uint64_t

cdef extern from *:
    int clz "__builtin_clzll"(uint64_t value) noexcept nogil

cdef enum:
    SUB_BITS = 7     # 128 buckets in each power of two
    SUB_BUCKETS = 128
    BUCKETS = 4736   # up to 2**43 ns, over two hours; the last has all longer latencies


cdef struct Histogram:
    uint64_t buckets[BUCKETS]
    uint64_t count
    int64_t max_ns


cdef inline void add_latency(Histogram* histogram, int64_t latency_ns) noexcept nogil:
    cdef uint64_t value = <uint64_t>latency_ns
    cdef uint64_t bucket = value
    cdef int shift
    if value >= SUB_BUCKETS:
        shift = 63 - SUB_BITS - clz(value)
        bucket = shift * SUB_BUCKETS + (value >> shift)
        if bucket >= BUCKETS:
            bucket = BUCKETS - 1
    histogram.buckets[bucket] += 1
    histogram.count += 1
    if latency_ns > histogram.max_ns:
        histogram.max_ns = latency_ns


cdef list used_buckets(Histogram* histogram)
