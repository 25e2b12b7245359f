"""What the timeline keeps of a pass over the records, as C structs."""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport realloc

from noria._core.recorder.clock cimport Clock
from noria._core.recorder.tables cimport NOT_FOUND, Table, table_get, table_set

cdef enum:
    MAX_ACTORS = 1 << 20    # tasks or connections of a recording
    MAX_SHARED = 256        # handlers of a group that share their time

cdef enum SpanKind:
    SPAN_CALLBACK = 0
    SPAN_TASK = 1
    SPAN_IO = 2
    SPAN_TIMER = 3
    SPAN_READING_PAUSED = 4
    SPAN_WRITING_PAUSED = 5
    SPAN_WAIT = 6
    SPAN_GC = 7
    SPAN_JOB = 8
    SPAN_FILE = 9

cdef struct Span:
    int64_t start
    int64_t end
    uint64_t code
    int64_t queued          # of a job
    uint64_t number         # of a handler; the first in the records is 1
    int kind
    int32_t task            # index of an actor; -1: none
    int32_t connection

cdef struct Spans:          # the first ones, up to a limit
    Span *list
    int32_t count
    int32_t capacity
    int32_t limit
    uint64_t total          # with those that were not kept

cdef struct Actor:          # a task or a connection
    uint64_t key            # address or descriptor
    uint64_t code           # or the type of the protocol
    int64_t begin
    int64_t end
    uint64_t weight         # ns or bytes in the range
    int64_t paused[2]       # since; reading, writing

cdef struct Actors:
    Table table             # key -> the index of its latest actor
    Actor *list
    int32_t count
    int32_t capacity
    int32_t *lanes          # index of each actor's lane; NULL in the first pass

cdef struct Lane:
    int32_t actor
    int64_t *busy           # a figure for each bucket
    int64_t *bytes_in
    int64_t *bytes_out
    Spans spans

cdef struct Pass:
    Clock clock
    int64_t now
    int64_t begin
    int64_t end
    int64_t first           # time of the first record
    int buckets
    double width            # ns of a bucket
    bint second             # the second pass, which fills the lanes of chosen actors
    bint failed
    # What runs.
    int64_t busy_since      # -1: it does not run, or sleeps
    int64_t waiting_since   # -1: it does not sleep
    bint seen_activity      # a handler or a wait was there
    int64_t turn_since
    Span group[MAX_SHARED]
    int group_count
    uint64_t group_ticks
    int group_turns         # turns that began with the group's second or a later handler
    uint64_t handler_number
    int64_t gc_since
    uint64_t gc_generation
    # The loop's figures for each bucket.
    int64_t *busy
    int64_t *waiting
    int64_t *longest
    int64_t *longest_turn
    int64_t *turns
    int64_t *events
    int64_t *steps
    int64_t *bytes_in
    int64_t *bytes_out
    int64_t *gc
    Span *longest_of        # the longest handler of each bucket
    Span *heap              # the longest handlers: a heap, the shortest on top
    int heap_count
    int heap_size
    Spans waits
    Spans collections
    Spans jobs
    Spans files
    Spans marks
    Actors tasks
    Actors connections
    Actors open_jobs
    Actors open_files
    Lane *task_lanes
    Lane *connection_lanes

cdef inline int bucket_at(Pass *p, int64_t time) noexcept nogil:
    cdef int bucket = <int>(<double>(time - p.begin) / p.width)
    return max(0, min(bucket, p.buckets - 1))

cdef inline void add_time(Pass *p, int64_t *figures, int64_t start, int64_t end) noexcept nogil:
    """Distribute a span of time over the buckets."""
    cdef int i, last
    cdef int64_t until
    start = max(start, p.begin)
    end = min(end, p.end)
    if start >= end:
        return
    last = bucket_at(p, end - 1)
    for i in range(bucket_at(p, start), last):
        until = p.begin + <int64_t>((i + 1) * p.width)
        if until > start:
            figures[i] += until - start
            start = until
    if end > start:
        figures[last] += end - start

cdef inline int64_t overlap(Pass *p, int64_t start, int64_t end) noexcept nogil:
    return max(min(end, p.end) - max(start, p.begin), 0)

cdef inline void add_span(Pass *p, Spans *spans, Span *span) noexcept nogil:
    cdef void *larger
    if span.end < p.begin or span.start > p.end:
        return
    spans.total += 1
    if spans.count == spans.limit:
        return
    if spans.count == spans.capacity:
        larger = realloc(spans.list, (spans.capacity * 2 + 16) * sizeof(Span))
        if larger == NULL:
            p.failed = True
            return
        spans.list = <Span *>larger
        spans.capacity = spans.capacity * 2 + 16
    spans.list[spans.count] = span[0]
    spans.count += 1

cdef inline int32_t add_actor(Pass *p, Actors *actors, uint64_t key, int64_t begin) noexcept nogil:
    """Return the index of a new actor; -1 if there are too many."""
    cdef void *larger
    cdef Actor *actor
    cdef int32_t index = actors.count
    if index == MAX_ACTORS:
        return -1
    if index == actors.capacity:
        larger = realloc(actors.list, (actors.capacity * 2 + 64) * sizeof(Actor))
        if larger == NULL:
            p.failed = True
            return -1
        actors.list = <Actor *>larger
        actors.capacity = actors.capacity * 2 + 64
    if not table_set(&actors.table, key, index):
        p.failed = True
        return -1
    actors.count += 1
    actor = &actors.list[index]
    actor.key = key
    actor.code = 0
    actor.begin = begin
    actor.end = 0
    actor.weight = 0
    actor.paused[0] = actor.paused[1] = 0
    return index

cdef inline int32_t find_actor(Pass *p, Actors *actors, uint64_t key) noexcept nogil:
    cdef int32_t index = table_get(&actors.table, key)
    return add_actor(p, actors, key, 0) if index == NOT_FOUND else index

cdef inline Lane *lane_of(Actors *actors, Lane *lanes, int32_t index) noexcept nogil:
    """The lane of an actor, if it has one."""
    if index < 0 or actors.lanes == NULL or actors.lanes[index] < 0:
        return NULL
    return &lanes[actors.lanes[index]]

cdef inline void push_longest(Pass *p, Span *span) noexcept nogil:
    """Keep the longest spans in the heap."""
    cdef int i, child
    cdef int64_t length = span.end - span.start
    if p.heap_count < p.heap_size:
        i = p.heap_count
        p.heap_count += 1
        while i and p.heap[(i - 1) >> 1].end - p.heap[(i - 1) >> 1].start > length:
            p.heap[i] = p.heap[(i - 1) >> 1]
            i = (i - 1) >> 1
        p.heap[i] = span[0]
        return
    if p.heap_size == 0 or length <= p.heap[0].end - p.heap[0].start:
        return
    i = 0
    while True:
        child = 2 * i + 1
        if child >= p.heap_size:
            break
        if child + 1 < p.heap_size and p.heap[child + 1].end - p.heap[child + 1].start < \
                p.heap[child].end - p.heap[child].start:
            child += 1
        if p.heap[child].end - p.heap[child].start >= length:
            break
        p.heap[i] = p.heap[child]
        i = child
    p.heap[i] = span[0]
