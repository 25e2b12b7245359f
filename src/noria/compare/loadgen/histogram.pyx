# cython: language_level=3, cdivision=True
"""Reading a histogram: its buckets and percentiles. histogram.pxd has the part that counts."""

from libc.stdint cimport uint64_t


cdef list used_buckets(Histogram* histogram):
    """The buckets that are not empty: lower edge, upper edge (microseconds), count."""
    cdef uint64_t low, width, shift
    cdef size_t i
    found = []
    for i in range(BUCKETS):
        if histogram.buckets[i]:
            low, width = i, 1
            if i >= 2 * SUB_BUCKETS:
                shift = i / SUB_BUCKETS - 1
                width = <uint64_t>1 << shift
                low = (i - shift * SUB_BUCKETS) << shift
            found.append((low / 1000.0, (low + width) / 1000.0, histogram.buckets[i]))
    return found


def percentile(buckets, share, total, max_us):
    """The latency (microseconds) that `share` of `total` messages did not exceed.

    It is the middle of its bucket, at most `max_us`.
    """
    wanted = share * total
    seen = 0
    for low, high, count in buckets:
        seen += count
        if seen >= wanted:
            return min((low + high) / 2, max_us)
    return max_us
