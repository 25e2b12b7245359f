"""When each event was queued, and by which handler, from the `tail` of the handlers' records.

A handler's record has the number of events queued before it. So each record says how many were
queued since the one before: some by waits, polls and due timers, which have records of their own,
the rest by the handler before. A handler's events count as queued when it ends: later than in
truth, so that the delay of an event never contains the time of the handler that queued it.
"""

from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport calloc, free

from noria._core.recorder.state cimport MAX_BATCHES, Batch, State

cdef inline void clear_queue(State *s) noexcept nogil:
    """Forget the events of the queue: records are missing."""
    s.batch_count = 0
    s.front = s.tail
    s.known = 0
    s.outside_until = 0

cdef inline Batch *add_batch(State *s, uint64_t count, int64_t time, int64_t due) noexcept nogil:
    cdef Batch *larger
    cdef Batch *batch
    cdef size_t i
    if s.batch_count > s.batch_mask:
        if s.batch_mask + 1 < MAX_BATCHES:
            larger = <Batch *>calloc((s.batch_mask + 1) * 2, sizeof(Batch))
            if larger == NULL:
                s.failed = True
                return NULL
            for i in range(s.batch_count):
                larger[i] = s.batches[(s.batch_head + i) & s.batch_mask]
            free(s.batches)
            s.batches = larger
            s.batch_mask = s.batch_mask * 2 + 1
            s.batch_head = 0
        else:
            # Forget the oldest one.
            s.front += s.batches[s.batch_head].count
            s.batch_head = (s.batch_head + 1) & s.batch_mask
            s.batch_count -= 1
    batch = &s.batches[(s.batch_head + s.batch_count) & s.batch_mask]
    s.batch_count += 1
    batch.count = count
    batch.time = time
    batch.due = due
    batch.task = 0
    batch.fd = -1
    batch.handler = 0
    return batch

cdef inline void queued_by_loop(State *s, uint64_t count, int64_t time, int64_t due) noexcept nogil:
    """A wait, a poll or a timer has queued events."""
    if count == 0:
        return
    if s.known == 0:
        # What the handler before has queued came first; how much is not known yet.
        add_batch(s, 0, 0, 0)
    s.known += count
    add_batch(s, count, time, due)

cdef inline void fill_batch(State *s, Batch *batch, uint64_t count, int64_t now) noexcept nogil:
    batch.count = count
    if s.outside_until:
        batch.time = s.outside_until
    else:
        batch.time = s.handler_end if s.group_count == 0 else now
        batch.task = s.last_handler.task
        batch.fd = s.last_handler.fd
        batch.handler = s.handler_number

cdef inline void begin_queue(State *s, uint64_t tail) noexcept nogil:
    """The first handler: of the events that are queued, the last `known` ones have a time."""
    s.tail = (<uint64_t>1 << 32) + tail
    s.tail_known = True
    s.taken_known = False
    if not s.turn_begun or s.turn_queue < s.known:
        clear_queue(s)
        return
    s.front = s.tail - s.turn_queue
    if s.known == 0:
        if add_batch(s, 0, 0, 0) == NULL:
            return
    # The first batch is the place that was kept for events of which nothing says when.
    s.batches[s.batch_head].count = s.turn_queue - s.known
    s.batches[s.batch_head].time = s.outside_until
    s.known = 0
    s.outside_until = 0

cdef inline void update_tail(State *s, uint64_t tail, int64_t now) noexcept nogil:
    """A handler's record has said how many events were queued so far, modulo 2**16."""
    cdef uint64_t count
    cdef int64_t expected, more
    cdef Batch *batch
    cdef size_t i, skipped
    if not s.tail_known:
        begin_queue(s, tail)
        return
    count = (tail - s.tail) & 0xffff
    if s.turn_begun and s.taken_known:
        # The turn's record has the length of the queue: a handler may queue more than 2**16.
        expected = <int64_t>(s.taken + s.turn_queue - s.tail)
        more = expected - <int64_t>count + 0x8000
        if more > 0:
            count += <uint64_t>more & ~<uint64_t>0xffff
    s.tail += count
    if count < s.known:
        clear_queue(s)
        return
    if count > s.known:
        if s.known == 0:
            batch = add_batch(s, 0, 0, 0)
            if batch != NULL:
                fill_batch(s, batch, count, now)
        else:
            # Find the place that was kept for the handler: the batches after it have `known`.
            skipped = 0
            i = s.batch_count
            while i > 0 and skipped < s.known:
                i -= 1
                skipped += s.batches[(s.batch_head + i) & s.batch_mask].count
            if i > 0 and skipped == s.known:
                fill_batch(s, &s.batches[(s.batch_head + i - 1) & s.batch_mask],
                           count - s.known, now)
            else:
                clear_queue(s)
    s.known = 0
    s.outside_until = 0

cdef inline bint take_event(State *s, Batch *event) noexcept nogil:
    """Take the next event out of the queue; return whether it is known when it was queued."""
    cdef Batch *batch
    cdef uint64_t number
    if s.turn_begun:
        s.turn_begun = False
        if s.turn_queue <= s.tail:
            s.taken = s.tail - s.turn_queue
            s.taken_known = True
    if not s.taken_known:
        return False
    number = s.taken
    s.taken += 1
    while s.batch_count:
        batch = &s.batches[s.batch_head]
        if number < s.front:
            return False
        if number < s.front + batch.count:
            event[0] = batch[0]
            return batch.time != 0
        s.front += batch.count
        s.batch_head = (s.batch_head + 1) & s.batch_mask
        s.batch_count -= 1
    return False
