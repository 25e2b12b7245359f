"""The figures of an analysis as Python objects: dicts and tuples of numbers.

Code is (kind, id), kind one of KINDS; a distribution is (count, total, longest, buckets), a bucket
(upper bound in ns, count). Times are CLOCK_MONOTONIC in ns.
"""

from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.stdlib cimport free, malloc, qsort

from noria._core.recorder.histogram cimport BUCKETS, Histogram, bound_of
from noria._core.recorder.state cimport (
    COUNTERS, MAX_LONG_TURNS, OUTSIDE, WAITING, Code, Codes, Connection, Sample, State, Task,
)
from noria._core.recorder.tables cimport NOT_FOUND, table_get

KINDS = ("callback", "task", "protocol", "timer", "job")
COUNTER_NAMES = (       # struct Counters in contract.pxd
    "waits", "empty_waits", "receives", "empty_receives", "sends", "blocked_sends", "accepts",
    "empty_accepts", "controls", "connections", "messages", "bytes_in", "bytes_out", "waiting_ns",
)
TLS_STATES = ("", "handshake", "TLS", "failed")


cdef tuple distribution(Histogram *histogram):
    cdef int i
    cdef list buckets = []
    for i in range(BUCKETS):
        if histogram.buckets[i]:
            buckets.append((bound_of(i), histogram.buckets[i]))
    return histogram.count, histogram.total, histogram.longest, buckets


cdef list code_figures(Codes *codes):
    """Return (kind, id, calls, busy, longest) of each."""
    cdef int32_t i
    cdef Code *code
    cdef list figures = []
    for i in range(codes.count):
        code = &codes.list[i]
        figures.append((KINDS[code.kind], code.id, code.calls, code.busy, code.longest))
    return figures


cdef list slow_calls(State *s):
    """Return (kind, id, start, duration, task, fd, events waiting), the longest first."""
    cdef int i
    cdef list calls = []
    for i in range(s.slow_count):
        calls.append((KINDS[s.slow[i].handler.kind], s.slow[i].handler.code,
                      s.slow[i].handler.start, s.slow[i].duration, s.slow[i].handler.task,
                      s.slow[i].handler.fd, s.slow[i].handler.waiting))
    calls.sort(key=duration_of, reverse=True)
    return calls


def duration_of(call):
    return call[3]


cdef list long_turns(State *s):
    """Return (start, end, delay, events waiting, kind, id, task, handlers) of the turns above
    max_block."""
    cdef uint64_t i
    cdef list turns = []
    for i in range(s.long_lost, s.long_lost + s.long_count):
        turn = &s.long_turns[i % MAX_LONG_TURNS]
        turns.append((turn.start, turn.end, turn.delay, turn.waited, KINDS[turn.longest.kind],
                      turn.longest.code, turn.longest.task, turn.handlers))
    return turns


cdef object running_call(State *s):
    """Return (kind, id, start, task, fd, events waiting) of the handler that runs, or None."""
    cdef int last = s.group_count - 1
    if last < 0 or not s.in_turn:
        return None
    return (KINDS[s.group[last].kind], s.group[last].code, s.group[last].start,
            s.group[last].task, s.group[last].fd, s.group[last].waiting)


cdef dict loop_figures(State *s):
    cdef int i
    return {
        "begin": s.begin,
        "end": s.now,
        "realtime_offset": s.realtime_offset,
        "running": s.activity != OUTSIDE and s.begin != 0,
        "waiting_now": s.activity == WAITING,
        "thread_native_id": s.thread,
        "busy": s.busy,
        "waiting": s.waiting,
        "turns": s.turns,
        "waits": s.waits,
        "polls": s.polls,
        "empty_polls": s.empty_polls,
        "events": s.events,
        "callbacks": s.events - s.steps - s.io,
        "steps": s.steps,
        "io": s.io,
        "wakeups": s.wakeups,
        "records": s.records,
        "counters": {COUNTER_NAMES[i]: s.counters[i] - s.first_counters[i]
                     for i in range(COUNTERS) if s.counted[i]},
        "first_counters": {COUNTER_NAMES[i]: s.first_counters[i]
                           for i in range(COUNTERS) if s.counted[i]},
        "turn": distribution(&s.turn),
        "queue_delay": distribution(&s.queue_delay),
        "handler": distribution(&s.handler),
        "codes": code_figures(&s.codes),
        "slow": slow_calls(s),
        "running_call": running_call(s),
        "long_turns": long_turns(s),
        "tasks_created": s.tasks_created,
        "connections_opened": s.connections_opened,
        "connections_open": s.connections_open,
        "timers_pending": s.timers_pending,
        "timers_fired": s.timers_fired,
        "lateness": distribution(&s.lateness),
        "files": (s.files_begun, s.files_open, s.files_failed, distribution(&s.file_duration)),
        "jobs": (s.jobs_submitted, s.jobs_finished, s.jobs_queued, s.jobs_running,
                 distribution(&s.job_waiting), distribution(&s.job_duration),
                 code_figures(&s.job_codes)),
        "gc": ([s.collections[0], s.collections[1], s.collections[2]], s.collected,
               distribution(&s.gc_pauses), code_figures(&s.gc_codes)),
        "exceptions": [(s.exceptions[i].type, s.exceptions[i].code, s.exceptions[i].count,
                        s.exceptions[i].last) for i in range(s.exception_count)],
    }


cdef struct Ranked:
    int64_t rank
    int32_t index


cdef int by_rank(const void *a, const void *b) noexcept nogil:
    cdef int64_t left = (<const Ranked *>a).rank
    cdef int64_t right = (<const Ranked *>b).rank
    return (left < right) - (left > right)


cdef list largest(Ranked *ranked, Py_ssize_t count, Py_ssize_t limit):
    """Return the indices with the largest ranks."""
    cdef Py_ssize_t i
    if count > limit:
        with nogil:
            qsort(ranked, count, sizeof(Ranked), by_rank)
    return [ranked[i].index for i in range(min(count, limit))]


cdef tuple task_tuple(Task *task):
    return (task.id, task.code, task.name, task.created, task.replaced, task.steps, task.busy,
            task.scheduled, task.longest, task.last_step, task.self_wakes)


cdef list task_figures(State *s, Py_ssize_t limit, object also):
    cdef int32_t i, index
    cdef set chosen
    cdef Ranked *ranked = <Ranked *>malloc(max(s.task_count, 1) * sizeof(Ranked))
    if ranked == NULL:
        raise MemoryError
    try:
        for i in range(s.task_count):
            ranked[i].rank = s.tasks[i].busy
            ranked[i].index = i
        chosen = set(largest(ranked, s.task_count, limit))
    finally:
        free(ranked)
    for id in also:
        index = table_get(&s.task_table, <uint64_t>(id & 0xffffffffffffffff))
        if index != NOT_FOUND:
            chosen.add(index)
    return [task_tuple(&s.tasks[<int32_t>index]) for index in sorted(chosen)]


cdef tuple caller(uint64_t code, uint64_t line):
    return (code, line) if code else None


cdef dict connection_dict(Connection *c, int64_t now):
    cdef int64_t reading = c.longest_reading_pause, writing = c.longest_writing_pause
    if c.reading_paused:
        reading = max(reading, now - c.reading_paused)
    if c.writing_paused:
        writing = max(writing, now - c.writing_paused)
    return {
        "fd": c.fd,
        "opened": c.opened,
        "closed": c.closed,
        "error": c.error,
        "protocol": c.protocol,
        "datagrams": bool(c.datagrams),
        "tls": TLS_STATES[c.tls] if c.tls < 4 else "",
        "bytes_in": c.bytes_in,
        "bytes_out": c.bytes_out,
        "receives": c.receives,
        "sends": c.sends,
        "blocked_sends": c.blocked_sends,
        "last_received": c.last_received,
        "last_sent": c.last_sent,
        "unsent": c.unsent,
        "most_unsent": c.most_unsent,
        "reading_paused_since": c.reading_paused,
        "writing_paused_since": c.writing_paused,
        "longest_reading_pause": reading,
        "longest_writing_pause": writing,
        "written_while_paused": c.written_while_paused,
        "user": c.user,
        "opened_at": caller(c.opened_at.code, c.opened_at.line),
        "paused_at": caller(c.paused_at.code, c.paused_at.line),
        "written_at": caller(c.written_at.code, c.written_at.line),
        "sender": (KINDS[c.sender_kind], c.sender) if c.repeated_sends else None,
        "repeated_sends": c.repeated_sends,
    }


cdef list connection_figures(State *s, Py_ssize_t limit):
    """The open connections first, then the closed ones, the last closed first."""
    cdef int32_t i
    cdef Ranked *ranked = <Ranked *>malloc(max(s.connection_count, 1) * sizeof(Ranked))
    if ranked == NULL:
        raise MemoryError
    try:
        for i in range(s.connection_count):
            ranked[i].rank = s.connections[i].closed if s.connections[i].closed else \
                <int64_t>0x7fffffffffffffff
            ranked[i].index = i
        chosen = largest(ranked, s.connection_count, limit)
    finally:
        free(ranked)
    figures = [connection_dict(&s.connections[<int32_t>index], s.now) for index in chosen]
    figures.sort(key=open_first)
    return figures


def open_first(figures):
    return (figures["closed"] != 0, -figures["closed"], figures["opened"], figures["fd"])


cdef tuple sample_tuple(Sample *sample, int64_t end):
    return (sample.begin, end, sample.busy, sample.turns, sample.events, sample.steps,
            sample.calls, sample.bytes_in, sample.bytes_out, sample.longest_turn,
            sample.longest_delay, sample.gc)


cdef list sample_figures(State *s):
    """Return (begin, end, busy, turns, events, steps, system calls, bytes in, bytes out,
    longest turn, longest queue delay, ns of collections) of each."""
    cdef int i
    cdef list samples = []
    cdef Sample *sample
    cdef int64_t end
    if s.begin == 0:
        return samples
    for i in range(s.sample_count):
        sample = &s.samples[(s.sample_head + i) % s.max_samples]
        if i + 1 < s.sample_count:
            end = s.samples[(s.sample_head + i + 1) % s.max_samples].begin
        else:
            end = s.sample.begin
        samples.append(sample_tuple(sample, end))
    if s.now > s.sample.begin:
        samples.append(sample_tuple(&s.sample, s.now))
    return samples
