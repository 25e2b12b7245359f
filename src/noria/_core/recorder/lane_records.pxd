"""What each record means to the timeline."""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from noria._core.recorder.clock cimport ns_of, set_clock
from noria._core.recorder.events cimport (
    ACCEPT, CALL, CLOCK, CLOSE, CONNECT, FILE_BEGIN, FILE_END, FIRST_OF_TURN, GC_BEGIN, GC_END, IO,
    JOB_BEGIN, JOB_END, JOB_QUEUED, KIND_MASK, MARK, OPEN, PAUSE_READING, PAUSE_WRITING, POLL,
    RECEIVE, RESUME_READING, RESUME_WRITING, RUN_BEGIN, RUN_END, Record, SEND, STEP, TASK_CREATED,
    TIMER, TIMER_CALL, TIMER_STEP, TURN, WAIT, WOKE, share_of,
)
from noria._core.recorder.handlers cimport address_in
from noria._core.recorder.lanes cimport (
    MAX_SHARED, SPAN_CALLBACK, SPAN_FILE, SPAN_GC, SPAN_IO, SPAN_JOB, SPAN_READING_PAUSED,
    SPAN_TASK, SPAN_TIMER, SPAN_WAIT, SPAN_WRITING_PAUSED, Actor, Lane, Pass, Span, add_actor,
    add_span, add_time, bucket_at, find_actor, lane_of, overlap, push_longest,
)
from noria._core.recorder.tables cimport NOT_FOUND, table_delete, table_get

cdef inline bint in_range(Pass *p, int64_t time) noexcept nogil:
    return p.begin <= time < p.end

cdef inline void end_span(Pass *p, Span *span) noexcept nogil:
    """A handler has ended."""
    cdef int64_t length = span.end - span.start
    cdef int bucket
    cdef Lane *lane
    if span.end < p.begin or span.start >= p.end:
        return
    if not p.second:
        if span.task >= 0:
            p.tasks.list[span.task].weight += <uint64_t>overlap(p, span.start, span.end)
        bucket = bucket_at(p, span.start)
        if length >= p.longest[bucket]:
            p.longest[bucket] = length
            p.longest_of[bucket] = span[0]
        push_longest(p, span)
        return
    lane = lane_of(&p.tasks, p.task_lanes, span.task)
    if lane != NULL:
        add_time(p, lane.busy, span.start, span.end)
        add_span(p, &lane.spans, span)
    lane = lane_of(&p.connections, p.connection_lanes, span.connection)
    if lane != NULL:
        add_time(p, lane.busy, span.start, span.end)
        add_span(p, &lane.spans, span)

cdef inline void end_group(Pass *p, int64_t now) noexcept nogil:
    """End the handlers that run; those of a group share the time."""
    cdef int i
    cdef int64_t share, at
    if p.group_count == 0:
        return
    at = p.group[0].start
    share = share_of(max(now - at, 0), p.group_count)
    for i in range(p.group_count):
        p.group[i].start = at
        at = at + share if i + 1 < p.group_count else max(now, at)
        p.group[i].end = at
        end_span(p, &p.group[i])
    if p.group_turns:
        p.turn_since = max(p.turn_since, p.group[p.group_count - 1].start)
        p.group_turns = 0
    p.group_count = 0

cdef inline bint shares_time(Pass *p, uint64_t ticks) noexcept nogil:
    """Whether a handler that begins then shares the time of the ones before it."""
    return 0 < p.group_count < MAX_SHARED and ticks == p.group_ticks

cdef inline void begin_handler(Pass *p, uint64_t ticks, int kind, uint64_t a, uint64_t b,
                               int64_t now) noexcept nogil:
    cdef Span *span
    if not shares_time(p, ticks):
        end_group(p, now)
        p.group_ticks = ticks
    span = &p.group[p.group_count]
    p.group_count += 1
    p.handler_number += 1
    span.number = p.handler_number
    span.start = now
    span.queued = 0
    span.task = span.connection = -1
    span.code = address_in(a)
    if kind == IO:
        span.kind = SPAN_IO
        span.code = address_in(b)
        span.connection = table_get(&p.connections.table, a & <uint64_t>0xffffffff)
    elif kind == STEP or kind == TIMER_STEP:
        span.kind = SPAN_TASK
        span.task = find_actor(p, &p.tasks, address_in(b))
        if span.task >= 0 and span.code:
            p.tasks.list[span.task].code = span.code
    else:
        span.kind = SPAN_TIMER if kind == TIMER_CALL else SPAN_CALLBACK
    if not p.second and in_range(p, now):
        p.events[bucket_at(p, now)] += 1
        if span.kind == SPAN_TASK:
            p.steps[bucket_at(p, now)] += 1

cdef inline void end_turn_span(Pass *p, int64_t now) noexcept nogil:
    cdef int bucket
    end_group(p, now)
    if p.turn_since >= 0 and not p.second and p.turn_since < p.end and now >= p.begin:
        bucket = bucket_at(p, p.turn_since)
        p.longest_turn[bucket] = max(p.longest_turn[bucket], now - p.turn_since)
    p.turn_since = -1

cdef inline void begin_turn_span(Pass *p, int64_t now) noexcept nogil:
    end_turn_span(p, now)
    if p.busy_since < 0:
        set_activity(p, True, False, now)
    p.turn_since = now
    count_turn(p, now)

cdef inline void count_turn(Pass *p, int64_t now) noexcept nogil:
    if not p.second and in_range(p, now):
        p.turns[bucket_at(p, now)] += 1

cdef inline void set_activity(Pass *p, bint busy, bint waiting, int64_t now) noexcept nogil:
    cdef Span span
    if not p.second:
        if p.busy_since >= 0:
            add_time(p, p.busy, p.busy_since, now)
        if p.waiting_since >= 0:
            add_time(p, p.waiting, p.waiting_since, now)
            span.start = p.waiting_since
            span.end = now
            span.kind = SPAN_WAIT
            span.code = 0
            span.queued = 0
            span.task = span.connection = -1
            add_span(p, &p.waits, &span)
    p.busy_since = now if busy else -1
    p.waiting_since = now if waiting else -1

cdef inline void end_pause(Pass *p, int32_t index, int which, int64_t now) noexcept nogil:
    cdef Actor *actor = &p.connections.list[index]
    cdef Lane *lane = lane_of(&p.connections, p.connection_lanes, index)
    cdef Span span
    if actor.paused[which]:
        if lane != NULL:
            span.start = actor.paused[which]
            span.end = now
            span.kind = SPAN_WRITING_PAUSED if which else SPAN_READING_PAUSED
            span.code = 0
            span.queued = 0
            span.task = -1
            span.connection = index
            add_span(p, &lane.spans, &span)
        actor.paused[which] = 0

cdef inline void close_actor(Pass *p, int32_t index, int64_t now) noexcept nogil:
    end_pause(p, index, 0, now)
    end_pause(p, index, 1, now)
    p.connections.list[index].end = now

cdef inline void connection_record(Pass *p, int kind, uint64_t a, uint64_t b,
                                   int64_t now) noexcept nogil:
    cdef uint64_t fd = a & <uint64_t>0xffffffff
    cdef uint64_t error = a >> 32
    cdef int32_t index
    cdef Lane *lane
    if kind == ACCEPT:
        if error:
            return
        fd = b & <uint64_t>0xffffffff
    index = table_get(&p.connections.table, fd)
    if kind == ACCEPT or kind == CONNECT or kind == OPEN:
        if kind == CONNECT and error:
            return
        # OPEN follows an ACCEPT or CONNECT of the same connection.
        if index == NOT_FOUND or kind != OPEN or p.connections.list[index].begin == 0 or \
                p.connections.list[index].code:
            if index != NOT_FOUND:
                close_actor(p, index, now)
            index = add_actor(p, &p.connections, fd, now)
        if index >= 0 and kind == OPEN:
            p.connections.list[index].code = address_in(b)
        return
    if index == NOT_FOUND:
        if kind == CLOSE:
            return
        index = add_actor(p, &p.connections, fd, 0)
        if index < 0:
            return
    lane = lane_of(&p.connections, p.connection_lanes, index)
    if kind == CLOSE:
        close_actor(p, index, now)
        table_delete(&p.connections.table, fd)
    elif kind == RECEIVE or kind == SEND:
        if error or not in_range(p, now):
            return
        p.connections.list[index].weight += b
        if lane != NULL:
            (lane.bytes_in if kind == RECEIVE else lane.bytes_out)[bucket_at(p, now)] += <int64_t>b
        elif not p.second:
            (p.bytes_in if kind == RECEIVE else p.bytes_out)[bucket_at(p, now)] += <int64_t>b
    elif kind == PAUSE_READING or kind == PAUSE_WRITING:
        if not p.connections.list[index].paused[kind == PAUSE_WRITING]:
            p.connections.list[index].paused[kind == PAUSE_WRITING] = now
        p.connections.list[index].weight += 1   # a lane, though it may have no bytes
    elif kind == RESUME_READING:
        end_pause(p, index, 0, now)
    elif kind == RESUME_WRITING:
        end_pause(p, index, 1, now)

cdef inline void work_record(Pass *p, int kind, uint64_t a, uint64_t b,
                             int64_t now) noexcept nogil:
    """Jobs, files, collections and marks, in the first pass."""
    cdef Span span
    cdef int32_t index
    span.end = now
    span.start = now
    span.queued = 0
    span.code = 0
    span.task = span.connection = -1
    if kind == JOB_QUEUED or kind == JOB_BEGIN:
        index = table_get(&p.open_jobs.table, a)
        if index == NOT_FOUND:
            index = add_actor(p, &p.open_jobs, a, 0)
            if index < 0:
                return
            p.open_jobs.list[index].paused[0] = now
        if kind == JOB_BEGIN:
            p.open_jobs.list[index].begin = now
        if b:
            p.open_jobs.list[index].code = address_in(b)
    elif kind == JOB_END:
        index = table_get(&p.open_jobs.table, a)
        if index == NOT_FOUND:
            return
        table_delete(&p.open_jobs.table, a)
        span.kind = SPAN_JOB
        span.queued = p.open_jobs.list[index].paused[0]
        span.start = p.open_jobs.list[index].begin or span.queued
        span.code = p.open_jobs.list[index].code
        add_span(p, &p.jobs, &span)
    elif kind == FILE_BEGIN:
        index = add_actor(p, &p.open_files, a, now)
    elif kind == FILE_END:
        index = table_get(&p.open_files.table, a)
        if index == NOT_FOUND:
            return
        table_delete(&p.open_files.table, a)
        span.kind = SPAN_FILE
        span.start = p.open_files.list[index].begin
        span.code = b
        add_span(p, &p.files, &span)
    elif kind == GC_BEGIN:
        p.gc_since = now
        p.gc_generation = a
    elif kind == GC_END:
        if p.gc_since:
            span.kind = SPAN_GC
            span.start = p.gc_since
            span.code = p.gc_generation
            p.gc_since = 0
            add_time(p, p.gc, span.start, now)
            add_span(p, &p.collections, &span)
    elif kind == MARK:
        span.code = address_in(a)
        span.kind = 0
        add_span(p, &p.marks, &span)

cdef inline void lane_record(Pass *p, const Record *record) noexcept nogil:
    cdef uint64_t ticks = record.stamp >> 8
    cdef int kind = <int>(record.stamp & KIND_MASK)
    cdef int64_t now = max(ns_of(&p.clock, ticks), p.now)
    cdef int32_t index
    p.now = now
    if p.first == 0:
        p.first = now
        p.busy_since = now
        p.seen_activity = False
    if CALL <= kind <= TIMER_STEP:
        if record.stamp & FIRST_OF_TURN:
            if shares_time(p, ticks) and p.turn_since >= 0:
                p.group_turns += 1
                count_turn(p, now)
            else:
                begin_turn_span(p, now)
        begin_handler(p, ticks, kind, record.a, record.b, now)
        p.seen_activity = True
    elif RECEIVE <= kind <= RESUME_WRITING:
        connection_record(p, kind, record.a, record.b, now)
    elif kind == TURN:
        begin_turn_span(p, now)
    elif kind == WAIT:
        p.seen_activity = True
        end_turn_span(p, now)
        set_activity(p, False, True, now)
    elif kind == RUN_BEGIN and not p.seen_activity:
        p.busy_since = now      # attached before the run
    elif kind == WOKE or kind == RUN_BEGIN:
        end_turn_span(p, now)
        if p.busy_since < 0:
            set_activity(p, True, False, now)
    elif kind == POLL:
        end_turn_span(p, now)
    elif kind == RUN_END:
        end_turn_span(p, now)
        set_activity(p, False, False, now)
    elif kind == TIMER:
        end_group(p, now)
    elif kind == TASK_CREATED:
        index = add_actor(p, &p.tasks, address_in(record.b), now)
        if index >= 0:
            p.tasks.list[index].code = address_in(record.a)
    elif kind == CLOCK:
        set_clock(&p.clock, ticks, record.a)
    elif not p.second and (FILE_BEGIN <= kind <= GC_END or kind == MARK):
        work_record(p, kind, record.a, record.b, now)
