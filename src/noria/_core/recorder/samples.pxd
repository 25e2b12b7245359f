"""Busy and waiting time, and the figures of each interval."""

from libc.stdint cimport int64_t
from libc.string cimport memset

from noria._core.recorder.state cimport BUSY, WAITING, Sample, State

cdef inline void account(State *s, int64_t until) noexcept nogil:
    """Add the time since the last call to what the loop does now."""
    cdef int64_t elapsed = until - s.accounted
    if elapsed <= 0:
        return
    s.accounted = until
    if s.activity == BUSY:
        s.busy += elapsed
        s.sample.busy += elapsed
    elif s.activity == WAITING:
        s.waiting += elapsed

cdef inline void add_sample(Sample *to, Sample *other) noexcept nogil:
    to.busy += other.busy
    to.longest_turn = max(to.longest_turn, other.longest_turn)
    to.longest_delay = max(to.longest_delay, other.longest_delay)
    to.gc += other.gc
    to.turns += other.turns
    to.events += other.events
    to.steps += other.steps
    to.calls += other.calls
    to.bytes_in += other.bytes_in
    to.bytes_out += other.bytes_out

cdef inline void merge_samples(State *s) noexcept nogil:
    """Make pairs of samples one."""
    cdef int i
    for i in range(0, s.sample_count, 2):
        s.samples[i >> 1] = s.samples[i]
        if i + 1 < s.sample_count:
            add_sample(&s.samples[i >> 1], &s.samples[i + 1])
    s.sample_count = (s.sample_count + 1) >> 1
    s.sample_width *= 2

cdef inline void push_sample(State *s) noexcept nogil:
    if s.sample_count < s.max_samples:
        s.samples[(s.sample_head + s.sample_count) % s.max_samples] = s.sample
        s.sample_count += 1
    else:
        s.samples[s.sample_head] = s.sample
        s.sample_head = (s.sample_head + 1) % s.max_samples
    memset(&s.sample, 0, sizeof(Sample))

cdef inline void next_sample(State *s, int64_t now) noexcept nogil:
    """End samples until the current one contains `now`."""
    cdef int64_t behind = (now - s.sample_end) // s.sample_width
    if s.keep_latest and behind > s.max_samples:
        account(s, s.sample_end)
        push_sample(s)
        s.sample_end += (behind - s.max_samples) * s.sample_width
        account(s, s.sample_end)
        memset(&s.sample, 0, sizeof(Sample))
        s.sample.begin = s.sample_end
        s.sample_end += s.sample_width
    while now >= s.sample_end:
        account(s, s.sample_end)
        push_sample(s)
        # An even number of full samples becomes half of it, which ends at the same time.
        if s.sample_count == s.max_samples and not s.keep_latest:
            merge_samples(s)
        s.sample.begin = s.sample_end
        s.sample_end += s.sample_width
