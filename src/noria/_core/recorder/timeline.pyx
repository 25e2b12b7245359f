"""The timeline of one loop in a recording: what a page draws of a range of time.

`Timeline.lanes` makes two passes over the records, in C: the first one takes the loop's figures for
each bucket, the longest handlers, and which tasks and connections are the largest; the second one
takes the figures of these.
"""

from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, qsort
from libc.string cimport memcpy, memset

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer

from noria._core.recorder.clock cimport ns_of, set_clock
from noria._core.recorder.events cimport CLOCK, KIND_MASK, RECORD_SIZE, Record
from noria._core.recorder.lane_records cimport close_actor, end_turn_span, lane_record, set_activity
from noria._core.recorder.lanes cimport (
    Actor, Actors, Lane, Pass, Span, Spans,
)
from noria._core.recorder.tables cimport table_allocate, table_free

from noria._core.recorder.analysis import checked_header

KINDS = ("callback", "task", "protocol", "timer", "reading paused", "writing paused", "wait", "gc",
         "job", "file")

cdef enum:
    MAX_BUCKETS = 100_000
    MAX_LANES = 10_000
    MAX_SPANS = 1_000_000
    FIRST_BITS = 8


cdef struct Ranked:
    uint64_t weight
    int32_t index


cdef int by_weight(const void *a, const void *b) noexcept nogil:
    cdef uint64_t left = (<const Ranked *>a).weight
    cdef uint64_t right = (<const Ranked *>b).weight
    return (left < right) - (left > right)


cdef class Walk:
    """The memory of one call of Timeline.lanes."""

    cdef Pass p
    cdef int task_lanes
    cdef int connection_lanes
    cdef list arrays

    def __cinit__(self):
        memset(&self.p, 0, sizeof(Pass))

    def __dealloc__(self):
        cdef Pass *p = &self.p
        free_actors(&p.tasks)
        free_actors(&p.connections)
        free_actors(&p.open_jobs)
        free_actors(&p.open_files)
        free(p.waits.list)
        free(p.collections.list)
        free(p.jobs.list)
        free(p.files.list)
        free(p.marks.list)
        free(p.busy)            # the first of ten arrays in one piece
        free(p.longest_of)
        free(p.heap)
        free_lanes(p.task_lanes, self.task_lanes)
        free_lanes(p.connection_lanes, self.connection_lanes)

    cdef int allocate(self, int buckets, int heap_size, int spans) except -1:
        cdef Pass *p = &self.p
        cdef int64_t *figures = <int64_t *>calloc(<size_t>buckets * 10, sizeof(int64_t))
        p.busy = figures
        p.longest_of = <Span *>calloc(buckets, sizeof(Span))
        p.heap = <Span *>calloc(max(heap_size, 1), sizeof(Span))
        if figures == NULL or p.longest_of == NULL or p.heap == NULL:
            raise MemoryError
        p.waiting = figures + buckets
        p.longest = figures + buckets * 2
        p.longest_turn = figures + buckets * 3
        p.turns = figures + buckets * 4
        p.events = figures + buckets * 5
        p.steps = figures + buckets * 6
        p.bytes_in = figures + buckets * 7
        p.bytes_out = figures + buckets * 8
        p.gc = figures + buckets * 9
        p.buckets = buckets
        p.heap_size = heap_size
        p.waits.limit = p.collections.limit = p.jobs.limit = p.files.limit = p.marks.limit = spans
        return 0

    cdef int prepare(self, tuple header, int64_t begin, int64_t end, bint second) except -1:
        """Begin a pass."""
        cdef Pass *p = &self.p
        p.clock.nominal = p.clock.scale = header[0]
        p.clock.ns = header[1]
        p.clock.ticks = 0
        p.now = p.first = 0
        p.begin = begin
        p.end = end
        p.width = max(<double>(end - begin) / p.buckets, 1e-3)
        p.second = second
        p.busy_since = p.waiting_since = p.turn_since = -1
        p.group_count = 0
        p.group_turns = 0
        p.handler_number = 0
        p.gc_since = 0
        reset_actors(&p.tasks)
        reset_actors(&p.connections)
        reset_actors(&p.open_jobs)
        reset_actors(&p.open_files)
        return 0

    cdef int walk(self, list parts) except -1:
        cdef Pass *p = &self.p
        cdef Py_buffer view
        cdef int32_t i
        for part in parts:
            PyObject_GetBuffer(part, &view, PyBUF_SIMPLE)
            try:
                with nogil:
                    walk_records(p, <const char *>view.buf, view.len // RECORD_SIZE)
            finally:
                PyBuffer_Release(&view)
            if p.now > p.end:
                break
        end_turn_span(p, p.now)
        set_activity(p, False, False, p.now)
        for i in range(p.connections.count):
            if not p.connections.list[i].end:
                close_actor(p, i, p.now)
                p.connections.list[i].end = 0
        if p.failed:
            raise MemoryError
        return 0

    cdef int choose(self, Actors *actors, Lane **lanes, int limit, int spans) except -1:
        """Give lanes to the actors with the largest weight; return how many have one."""
        cdef Ranked *ranked = <Ranked *>malloc((actors.count + 1) * sizeof(Ranked))
        cdef int32_t i, count
        cdef size_t buckets = self.p.buckets
        if ranked == NULL:
            raise MemoryError
        try:
            count = 0
            for i in range(actors.count):
                if actors.list[i].weight:
                    ranked[count].weight = actors.list[i].weight
                    ranked[count].index = i
                    count += 1
            qsort(ranked, count, sizeof(Ranked), by_weight)
            count = min(count, limit)
            actors.lanes = <int32_t *>malloc((actors.count + 1) * sizeof(int32_t))
            lanes[0] = <Lane *>calloc(count + 1, sizeof(Lane))
            if actors.lanes == NULL or lanes[0] == NULL:
                raise MemoryError
            memset(actors.lanes, 0xff, (actors.count + 1) * sizeof(int32_t))
            for i in range(count):
                actors.lanes[ranked[i].index] = i
                lanes[0][i].actor = ranked[i].index
                lanes[0][i].spans.limit = spans
        finally:
            free(ranked)
        for i in range(count):
            lanes[0][i].busy = <int64_t *>calloc(buckets * 3, sizeof(int64_t))
            if lanes[0][i].busy == NULL:
                free_lanes(lanes[0], count)
                lanes[0] = NULL
                raise MemoryError
            lanes[0][i].bytes_in = lanes[0][i].busy + buckets
            lanes[0][i].bytes_out = lanes[0][i].busy + buckets * 2
        return count


cdef void walk_records(Pass *p, const char *place, Py_ssize_t count) noexcept nogil:
    cdef Record record
    cdef Py_ssize_t i
    for i in range(count):
        memcpy(&record, place + i * RECORD_SIZE, RECORD_SIZE)
        lane_record(p, &record)
        if p.now > p.end:
            return


cdef void walk_clock(Pass *p, const char *place, Py_ssize_t count) noexcept nogil:
    """Only find the times of the first and the last record."""
    cdef Record record
    cdef Py_ssize_t i
    for i in range(count):
        memcpy(&record, place + i * RECORD_SIZE, RECORD_SIZE)
        p.now = max(p.now, ns_of(&p.clock, record.stamp >> 8))
        if p.first == 0:
            p.first = p.now
        if record.stamp & KIND_MASK == CLOCK:
            set_clock(&p.clock, record.stamp >> 8, record.a)


cdef int reset_actors(Actors *actors) except -1:
    table_free(&actors.table)
    actors.count = 0
    if not table_allocate(&actors.table, FIRST_BITS):
        raise MemoryError
    return 0


cdef void free_actors(Actors *actors) noexcept:
    table_free(&actors.table)
    free(actors.list)
    free(actors.lanes)


cdef void free_lanes(Lane *lanes, int count) noexcept:
    cdef int i
    if lanes != NULL:
        for i in range(count):
            free(lanes[i].busy)
            free(lanes[i].spans.list)
        free(lanes)


cdef list numbers(int64_t *figures, int count):
    cdef int i
    return [figures[i] for i in range(count)]


cdef tuple handler_span(Pass *p, Span *span):
    return (span.start, span.end - span.start, KINDS[span.kind], span.code,
            p.tasks.list[span.task].key if span.task >= 0 else 0,
            <int64_t>p.connections.list[span.connection].key if span.connection >= 0 else -1,
            span.number)


cdef list longest_spans(Pass *p):
    cdef int i
    cdef set spans = set()
    for i in range(p.heap_count):
        spans.add(handler_span(p, &p.heap[i]))
    for i in range(p.buckets):
        if p.longest_of[i].end:
            spans.add(handler_span(p, &p.longest_of[i]))
    return sorted(spans)


cdef list plain_spans(Spans *spans):
    """Return (start, duration, code) of each."""
    cdef int32_t i
    return [(spans.list[i].start, spans.list[i].end - spans.list[i].start, spans.list[i].code)
            for i in range(spans.count)]


cdef list lane_list(Pass *p, Actors *actors, Lane *lanes, int count, bint connections):
    cdef int i
    cdef int32_t j
    cdef list result = []
    cdef Actor *actor
    cdef Lane *lane
    for i in range(count):
        lane = &lanes[i]
        actor = &actors.list[lane.actor]
        spans = [(lane.spans.list[j].start, lane.spans.list[j].end - lane.spans.list[j].start,
                  KINDS[lane.spans.list[j].kind]) for j in range(lane.spans.count)]
        spans.sort()
        figures = {
            "id": actor.key,
            "code": actor.code,
            "begin": actor.begin,
            "end": actor.end,
            "busy": numbers(lane.busy, p.buckets),
            "spans": spans,
            "span_count": lane.spans.total,
        }
        if connections:
            figures["bytes_in"] = numbers(lane.bytes_in, p.buckets)
            figures["bytes_out"] = numbers(lane.bytes_out, p.buckets)
        result.append(figures)
    return result


cdef class Timeline:
    """The timeline of a loop.

    Args:
        header: the ring's, as in the recording's object "loop".
        parts: the loop's records, in order: Recording.records(loop).

    Raises RecordingError for an impossible header, ValueError for parts that are not whole records.
    """

    cdef readonly int64_t begin     # the first record, CLOCK_MONOTONIC in ns; 0: there is none
    cdef readonly int64_t end       # the last record
    cdef tuple header
    cdef list parts

    def __init__(self, header, parts):
        cdef Walk walk = Walk()
        cdef Py_buffer view
        self.header = checked_header(header)
        self.parts = list(parts)
        walk.allocate(1, 0, 0)
        walk.prepare(self.header, 0, 1, False)
        for part in self.parts:
            PyObject_GetBuffer(part, &view, PyBUF_SIMPLE)
            try:
                if view.len % RECORD_SIZE:
                    raise ValueError(f"records have {RECORD_SIZE} bytes")
                with nogil:
                    walk_clock(&walk.p, <const char *>view.buf, view.len // RECORD_SIZE)
            finally:
                PyBuffer_Release(&view)
        self.begin = walk.p.first
        self.end = walk.p.now

    def lanes(self, int64_t begin=0, int64_t end=0, int buckets=1000, *, int longest=1000,
              int tasks=50, int connections=50, int spans=1000):
        """Return what happened from *begin* to *end* (default: everything).

        Args:
            begin, end: CLOCK_MONOTONIC in ns.
            buckets: into how many intervals of equal length the range is divided.
            longest: how many of the longest handlers; each bucket's longest comes in addition.
            tasks, connections: how many lanes, those with the most time or bytes in the range.
            spans: how many spans of each lane, the first ones; if "span_count" is larger, zoom in
                or draw the figures of the buckets.

        Returns a dict:
            begin, end, buckets, width (ns of a bucket, a float)
            loop: lists with a number for each bucket: busy and waiting (ns), longest (handler that
                began in it, ns), longest_turn, turns, events, steps, bytes_in, bytes_out, gc (ns)
            handlers: [(start, duration, kind, code, task or 0, fd or -1, number), …], sorted by
                start; the first handler in the records has the number 1
            waits: [(start, duration, 0), …]; wait_count: with those that are not listed
            gc: [(start, duration, generation), …]
            jobs: [(start, duration, code, queued), …] of executors, those that have ended
            files: [(start, duration, result), …]
            marks: [(time, name), …]
            tasks: [{id, code, begin, end, busy: [ns of each bucket], spans: [(start, duration,
                kind), …], span_count}, …]; begin is 0 if it was created before the recording
            connections: the same, id is the descriptor, code the protocol's type, and bytes_in,
                bytes_out: [bytes of each bucket]; spans also of kind "reading paused" and
                "writing paused"
        kind is one of KINDS. Times are absolute, codes are ids for `Names`.
        """
        cdef Walk walk = Walk()
        cdef Pass *p = &walk.p
        cdef int32_t i
        begin = begin or self.begin
        end = end or self.end + 1
        if not 0 <= begin < 1 << 62 or not 0 <= end < 1 << 62 or end < begin:
            raise ValueError(f"no range of time: {begin} to {end}")
        if not (0 < buckets <= MAX_BUCKETS and 0 <= longest <= MAX_SPANS and
                0 <= tasks <= MAX_LANES and 0 <= connections <= MAX_LANES and
                0 <= spans <= MAX_SPANS):
            raise ValueError("impossible limits")
        walk.allocate(buckets, longest, spans)
        walk.prepare(self.header, begin, end, False)
        walk.walk(self.parts)
        handlers = longest_spans(p)
        walk.task_lanes = walk.choose(&p.tasks, &p.task_lanes, tasks, spans)
        walk.connection_lanes = walk.choose(&p.connections, &p.connection_lanes, connections, spans)
        if walk.task_lanes or walk.connection_lanes:
            walk.prepare(self.header, begin, end, True)
            walk.walk(self.parts)
        return {
            "begin": begin,
            "end": end,
            "buckets": buckets,
            "width": p.width,
            "loop": {
                "busy": numbers(p.busy, buckets),
                "waiting": numbers(p.waiting, buckets),
                "longest": numbers(p.longest, buckets),
                "longest_turn": numbers(p.longest_turn, buckets),
                "turns": numbers(p.turns, buckets),
                "events": numbers(p.events, buckets),
                "steps": numbers(p.steps, buckets),
                "bytes_in": numbers(p.bytes_in, buckets),
                "bytes_out": numbers(p.bytes_out, buckets),
                "gc": numbers(p.gc, buckets),
            },
            "handlers": handlers,
            "waits": plain_spans(&p.waits),
            "wait_count": p.waits.total,
            "gc": plain_spans(&p.collections),
            "jobs": [(p.jobs.list[i].start, p.jobs.list[i].end - p.jobs.list[i].start,
                      p.jobs.list[i].code, p.jobs.list[i].queued) for i in range(p.jobs.count)],
            "files": [(p.files.list[i].start, p.files.list[i].end - p.files.list[i].start,
                       <int64_t>p.files.list[i].code) for i in range(p.files.count)],
            "marks": [(p.marks.list[i].start, p.marks.list[i].code) for i in range(p.marks.count)],
            "tasks": lane_list(p, &p.tasks, p.task_lanes, walk.task_lanes, False),
            "connections": lane_list(p, &p.connections, p.connection_lanes,
                                     walk.connection_lanes, True),
        }
