"""What each record means to the analysis."""

from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.string cimport memset

from noria._core.recorder.clock cimport set_clock
from noria._core.recorder.codes cimport add_job, count_call, find_job, remove_job
from noria._core.recorder.events cimport (
    CALL, CALLER, CLOCK, COUNTER, EXCEPTION, FILE_BEGIN, FILE_END, GC_BEGIN, GC_END,
    JOB_BEGIN, JOB_END, JOB_QUEUED, POLL, RECEIVE, RUN_BEGIN, RUN_END, SEND, TASK_CREATED,
    TASK_NAMED, TIMER, TIMER_STEP, TURN, WAIT, WAKEUP, WOKE,
)
from noria._core.recorder.handlers cimport (
    add_task, address_in, begin_turn, dispatch, end_handlers, end_turn, find_task,
)
from noria._core.recorder.histogram cimport count_value
from noria._core.recorder.queue cimport queued_by_loop
from noria._core.recorder.samples cimport account
from noria._core.recorder.sockets cimport socket_record
from noria._core.recorder.state cimport (
    BUSY, CODE_JOB, COUNTERS, MAX_EXCEPTIONS, OUTSIDE, WAITING, Exceptions, Job, State,
)
from noria._core.recorder.tables cimport NOT_FOUND, table_get

cdef enum:
    MAX_QUEUED = 1 << 30    # events that one wait may queue; more is damage

cdef inline void loop_record(State *s, int kind, uint64_t a, uint64_t b,
                             int64_t now) noexcept nogil:
    """A record of the group that begins with RUN_BEGIN."""
    if kind == TURN:
        account(s, now)
        s.activity = BUSY
        begin_turn(s, a, now)
    elif kind == WAIT:
        end_turn(s, now)
        account(s, now)
        s.activity = WAITING
        s.waits += 1
    elif kind == WOKE:
        account(s, now)
        s.activity = BUSY
        # Other threads may have queued more, of which WAKEUP or nothing says so.
        s.outside_until = now
        queued_by_loop(s, min(a, <uint64_t>MAX_QUEUED), now, 0)
    elif kind == POLL:
        end_turn(s, now)
        s.polls += 1
        s.empty_polls += a == 0
        queued_by_loop(s, min(a, <uint64_t>MAX_QUEUED), now, 0)
    elif kind == WAKEUP:
        s.wakeups += 1
    elif kind == RUN_BEGIN:
        end_turn(s, now)
        account(s, now)
        s.activity = BUSY
        s.thread = a
        s.outside_until = now
    else:   # RUN_END
        end_turn(s, now)
        account(s, now)
        s.activity = OUTSIDE

cdef inline void count_exception(State *s, uint64_t type, uint64_t code,
                                 int64_t now) noexcept nogil:
    cdef int32_t task = table_get(&s.task_table, code)
    cdef Exceptions *entry
    cdef int i
    if task != NOT_FOUND:
        code = s.tasks[task].code
    for i in range(s.exception_count):
        if s.exceptions[i].type == type and s.exceptions[i].code == code:
            break
    else:
        if s.exception_count == MAX_EXCEPTIONS:
            return
        i = s.exception_count
        s.exception_count += 1
        memset(&s.exceptions[i], 0, sizeof(Exceptions))
    entry = &s.exceptions[i]
    entry.type = type
    entry.code = code
    entry.count += 1
    entry.last = now

cdef inline void job_record(State *s, int kind, uint64_t a, uint64_t b, int64_t now) noexcept nogil:
    """A record of a file operation or an executor's job."""
    cdef Job *job
    if kind == FILE_BEGIN:
        s.files_begun += 1
        if find_job(&s.files, a) == NULL:
            job = add_job(&s.files, a)
            if job != NULL:
                job.begun = now
                s.files_open += 1
    elif kind == FILE_END:
        s.files_failed += <int64_t>b < 0
        job = find_job(&s.files, a)
        if job != NULL:
            count_value(&s.file_duration, now - job.begun)
            remove_job(&s.files, job)
            s.files_open -= 1
    elif kind == JOB_QUEUED:
        s.jobs_submitted += 1
        if find_job(&s.jobs, a) == NULL:
            job = add_job(&s.jobs, a)
            if job != NULL:
                job.queued = now
                job.code = address_in(b)
                s.jobs_queued += 1
    elif kind == JOB_BEGIN:
        job = find_job(&s.jobs, a)
        if job == NULL:
            job = add_job(&s.jobs, a)
            if job == NULL:
                return
            job.code = address_in(b)
        elif job.begun == 0:
            s.jobs_queued -= 1
            count_value(&s.job_waiting, now - job.queued)
        if job.begun == 0:
            s.jobs_running += 1
        job.begun = now
    else:   # JOB_END
        s.jobs_finished += 1
        job = find_job(&s.jobs, a)
        if job != NULL:
            if job.begun:
                s.jobs_running -= 1
                count_value(&s.job_duration, now - job.begun)
                if not count_call(&s.job_codes, CODE_JOB, job.code, now - job.begun):
                    s.failed = True
            else:
                s.jobs_queued -= 1      # cancelled before it began
            remove_job(&s.jobs, job)

cdef inline void end_collection(State *s, uint64_t collected, int64_t now) noexcept nogil:
    cdef int64_t pause
    if s.gc_begin == 0:
        return
    pause = max(now - s.gc_begin, 0)
    s.gc_begin = 0
    s.collections[min(s.gc_generation, <uint64_t>2)] += 1
    s.collected += collected
    s.sample.gc += pause
    count_value(&s.gc_pauses, pause)
    if s.group_count:
        if not count_call(&s.gc_codes, s.last_handler.kind, s.last_handler.code, pause):
            s.failed = True

cdef inline void counter_record(State *s, uint64_t index, uint64_t value) noexcept nogil:
    if index >= COUNTERS:
        return
    if not s.counted[index]:
        s.counted[index] = True
        s.first_counters[index] = value
    elif (index == 0 or index == 2 or index == 4 or index == 6 or index == 8) and \
            value > s.counters[index]:
        s.sample.calls += value - s.counters[index]     # see SYSTEM_CALLS in observation.py
    s.counters[index] = value

cdef inline void take_record(State *s, uint64_t ticks, int kind, uint64_t a, uint64_t b,
                             int64_t now) noexcept nogil:
    if not s.seen_activity and (RUN_BEGIN <= kind <= POLL or CALL <= kind <= TIMER_STEP):
        # The first record that says what the loop has done since the records begin.
        s.seen_activity = True
        if kind != RUN_BEGIN:
            s.activity = WAITING if kind == WOKE else BUSY
    if CALL <= kind <= TIMER_STEP:
        dispatch(s, ticks, kind, a, b, now)
    elif RECEIVE <= kind <= CALLER:
        socket_record(s, kind, a, b, now)
        if kind == RECEIVE:
            if a >> 32 == 0:
                s.sample.bytes_in += b
        elif kind == SEND:
            if a >> 32 == 0:
                s.sample.bytes_out += b
    elif RUN_BEGIN <= kind <= WAKEUP:
        loop_record(s, kind, a, b, now)
    elif kind == TIMER:
        end_handlers(s, now)
        queued_by_loop(s, 1, now, <int64_t>a)
    elif kind == TASK_CREATED:
        s.tasks_created += 1
        s.tasks[add_task(s, address_in(b), now)].code = address_in(a)
    elif kind == TASK_NAMED:
        s.tasks[find_task(s, address_in(b))].name = address_in(a)
    elif FILE_BEGIN <= kind <= JOB_END:
        job_record(s, kind, a, b, now)
    elif kind == GC_BEGIN:
        s.gc_begin = now
        s.gc_generation = a
    elif kind == GC_END:
        end_collection(s, a, now)
    elif kind == EXCEPTION:
        count_exception(s, address_in(a), address_in(b), now)
    elif kind == COUNTER:
        counter_record(s, a, b)
    elif kind == CLOCK:
        set_clock(&s.clock, ticks, a)
        if not b >> 62 and not a >> 62:
            s.realtime_offset = <int64_t>b - <int64_t>a
