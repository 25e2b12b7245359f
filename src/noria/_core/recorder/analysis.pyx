"""From records to figures: one pass, in C, that keeps bounded tables and can go on at any time.

`Analysis.feed` takes a loop's records in order; `Analysis.figures` returns what they have shown so
far, with the ids of code that `noria.sight.names` resolves. `records.pxd` says what each record
means, `queue.pxd` when events were queued, `handlers.pxd` is about handlers and turns,
`sockets.pxd` about connections, `samples.pxd` about time. All memory is bounded: tasks,
connections, pieces of code and jobs beyond a limit count in the totals only.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from noria._core.recorder.clock cimport ns_of
from noria._core.recorder.events cimport FIRST_OF_TURN, KIND_MASK, RECORD_SIZE, Record
from noria._core.recorder.figures cimport (
    connection_figures, loop_figures, sample_figures, task_figures,
)
from noria._core.recorder.handlers cimport begin_turn, shares_time
from noria._core.recorder.queue cimport clear_queue
from noria._core.recorder.records cimport take_record
from noria._core.recorder.samples cimport account, next_sample
from noria._core.recorder.sockets cimport open_connection
from noria._core.recorder.state cimport (
    BUSY, OUTSIDE, Batch, Connection, Flow, Sample, State, Task,
)
from noria._core.recorder.tables cimport table_allocate, table_free

from noria.errors import RecordingError

cdef enum:
    FIRST_BATCHES = 1024
    FIRST_BITS = 8          # of the hash tables
    MAX_KEPT = 1 << 22      # tasks, connections or samples

cdef int64_t MAX_BASE = <int64_t>1 << 60


def checked_header(header):
    """Return (ns of a tick, monotonic base, realtime base) of a ring's header.

    Raises RecordingError if it lacks them or they cannot be true.
    """
    try:
        scale = float(header["ns_per_tick"])
        monotonic = int(header["monotonic_base_ns"])
        realtime = int(header["realtime_base_ns"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise RecordingError(f"a ring's header is incomplete: {error!r}") from None
    if not (0.001 < scale < 16 and 0 <= monotonic < MAX_BASE * 2 and 0 <= realtime < MAX_BASE * 4):
        raise RecordingError(f"a ring's header is damaged: a tick of {scale} ns, times of "
                             f"{monotonic} and {realtime} ns")
    return scale, monotonic, realtime


cdef class Analysis:
    """The figures of one loop.

    Args:
        header: the ring's, as RingReader.header returns it.
        max_block: ns from which on a turn is kept as a long one.
        max_tasks, max_connections: how many are kept in detail.
        sample: ns of the first samples.
        max_samples: how many samples are kept.
        keep_latest: forget the oldest samples; else pairs become one sample, of twice the time.
        max_flows: of how many handlers it is kept which other one has queued them.

    Raises RecordingError for an impossible header.
    """

    def __cinit__(self, header, *, int64_t max_block=100_000_000, int32_t max_tasks=20_000,
                  int32_t max_connections=20_000, int64_t sample=1_000_000_000,
                  int max_samples=2000, bint keep_latest=False, int32_t max_flows=0):
        cdef State *s
        scale, monotonic, realtime = checked_header(header)
        if not (0 < max_tasks <= MAX_KEPT and 0 < max_connections <= MAX_KEPT and
                1 < max_samples <= MAX_KEPT and max_samples % 2 == 0 and
                1000 <= sample < MAX_BASE and 0 <= max_flows <= MAX_KEPT):
            raise ValueError("impossible limits")
        self.header = header
        self.state = s = <State *>calloc(1, sizeof(State))
        if s == NULL:
            raise MemoryError
        s.clock.nominal = s.clock.scale = scale
        s.clock.ns = monotonic
        s.realtime_offset = realtime - monotonic
        s.max_block = max_block
        s.max_tasks = max_tasks
        s.max_connections = max_connections
        s.max_samples = max_samples
        s.sample_width = sample
        s.keep_latest = keep_latest
        s.files.free = s.jobs.free = -1
        s.last_handler.fd = -1
        s.batch_mask = FIRST_BATCHES - 1
        s.batches = <Batch *>calloc(FIRST_BATCHES, sizeof(Batch))
        s.tasks = <Task *>calloc(max_tasks, sizeof(Task))
        s.connections = <Connection *>calloc(max_connections, sizeof(Connection))
        s.samples = <Sample *>calloc(max_samples, sizeof(Sample))
        s.flows = <Flow *>calloc(max_flows + 1, sizeof(Flow))
        s.flow_limit = max_flows
        if s.batches == NULL or s.tasks == NULL or s.connections == NULL or s.samples == NULL or \
                s.flows == NULL or \
                not table_allocate(&s.codes.table, FIRST_BITS) or \
                not table_allocate(&s.job_codes.table, FIRST_BITS) or \
                not table_allocate(&s.gc_codes.table, FIRST_BITS) or \
                not table_allocate(&s.task_table, FIRST_BITS) or \
                not table_allocate(&s.files.table, FIRST_BITS) or \
                not table_allocate(&s.jobs.table, FIRST_BITS):
            raise MemoryError

    def __dealloc__(self):
        cdef State *s = self.state
        if s == NULL:
            return
        table_free(&s.codes.table)
        table_free(&s.job_codes.table)
        table_free(&s.gc_codes.table)
        table_free(&s.task_table)
        table_free(&s.files.table)
        table_free(&s.jobs.table)
        free(s.codes.list)
        free(s.job_codes.list)
        free(s.gc_codes.list)
        free(s.files.list)
        free(s.jobs.list)
        free(s.batches)
        free(s.tasks)
        free(s.connections)
        free(s.fds)
        free(s.samples)
        free(s.flows)
        free(s)

    def feed(self, records):
        """Take the next records: bytes, or another buffer.

        Raises ValueError if they are not whole records, MemoryError.
        """
        cdef Py_buffer view
        PyObject_GetBuffer(records, &view, PyBUF_SIMPLE)
        try:
            if view.len % RECORD_SIZE:
                raise ValueError(f"records have {RECORD_SIZE} bytes; {view.len} is not a multiple")
            with nogil:
                feed_records(self.state, <const char *>view.buf, view.len // RECORD_SIZE)
        finally:
            PyBuffer_Release(&view)
        if self.state.failed:
            raise MemoryError("the analysis of a loop")

    def gap(self):
        """Records are missing before the next ones: what is queued now is not known."""
        cdef State *s = self.state
        s.tail_known = s.taken_known = s.turn_begun = s.in_turn = False
        s.group_count = 0
        s.group_turns = 0
        clear_queue(s)

    @property
    def now(self):
        """The time of the last record, or of the last `advance`; 0 before the first record."""
        return self.state.now

    @property
    def begin(self):
        """The time of the first record; 0 before it."""
        return self.state.begin

    def advance(self, int64_t now):
        """Say that no record was written since the last one until `now`."""
        cdef State *s = self.state
        if s.begin and s.now < now < 2 * MAX_BASE:
            s.now = now
            if now >= s.sample_end:
                next_sample(s, now)
            account(s, now)

    @property
    def running(self):
        """Whether the loop's last run has not ended."""
        return self.state.activity != OUTSIDE and self.state.begin != 0

    def figures(self):
        """Return the loop's totals, distributions and figures by code, as a dict: figures.pyx."""
        account(self.state, self.state.now)
        return loop_figures(self.state)

    def tasks(self, Py_ssize_t limit=10_000, also=()):
        """Return up to `limit` tasks, those with the most time first, and those with ids in `also`.

        Each is (id, code, name, created, replaced, steps, busy, scheduled, longest_step,
        last_step, self_wakes).
        """
        return task_figures(self.state, limit, also)

    def flows(self):
        """Return which handler queued which other one: (number, number), in the order of the other.

        The first handler in the records is number 1. Of more than `max_flows`, those that waited
        longest in the queue.
        """
        cdef int32_t i
        cdef list found = [(self.state.flows[i].handler, self.state.flows[i].origin)
                           for i in range(self.state.flow_count)]
        found.sort()
        return [(origin, handler) for handler, origin in found]

    def connections(self, Py_ssize_t limit=10_000):
        """Return up to `limit` connections, the open ones first: see figures.pyx."""
        return connection_figures(self.state, limit)

    def samples(self):
        """Return the samples: see figures.pyx."""
        account(self.state, self.state.now)
        return sample_figures(self.state)

    def connection_state(self, uint64_t fd):
        """Return (opened, last_received) of the open connection of a descriptor, or None."""
        cdef Connection *connection = open_connection(self.state, fd)
        if connection == NULL:
            return None
        return connection.opened, connection.last_received


cdef void feed_records(State *s, const char *place, Py_ssize_t count) noexcept nogil:
    cdef Record record
    cdef int64_t now
    cdef uint64_t ticks
    cdef Py_ssize_t i
    for i in range(count):
        memcpy(&record, place + i * RECORD_SIZE, RECORD_SIZE)
        ticks = record.stamp >> 8
        now = ns_of(&s.clock, ticks)
        if now < s.now:
            now = s.now
        s.now = now
        s.records += 1
        if now >= s.sample_end:
            if s.begin == 0:
                begin_analysis(s, now)
            else:
                next_sample(s, now)
        if record.stamp & FIRST_OF_TURN:
            begin_turn_of_one(s, ticks, now)
        take_record(s, ticks, <int>(record.stamp & KIND_MASK), record.a, record.b, now)


cdef void begin_turn_of_one(State *s, uint64_t ticks, int64_t now) noexcept nogil:
    """A handler's record also begins its turn."""
    if s.in_turn and shares_time(s, ticks):
        s.turns += 1
        s.sample.turns += 1
        s.group_turns += 1
        s.turn_begun = True
        s.turn_queue = 1
    else:
        account(s, now)
        s.activity = BUSY
        begin_turn(s, 1 | <uint64_t>s.timers_pending << 32, now)


cdef void begin_analysis(State *s, int64_t now) noexcept nogil:
    s.begin = s.accounted = s.sample.begin = now
    s.sample_end = now + s.sample_width
