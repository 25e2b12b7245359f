"""Handlers and turns: callbacks, steps of tasks, channels, timers."""

from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.string cimport memset

from noria._core.recorder.codes cimport count_call
from noria._core.recorder.events cimport IO, STEP, TIMER_CALL, TIMER_STEP, share_of
from noria._core.recorder.histogram cimport count_value
from noria._core.recorder.queue cimport take_event, update_tail
from noria._core.recorder.state cimport (
    CODE_CALLBACK, CODE_PROTOCOL, CODE_TASK, CODE_TIMER, MAX_GROUP, MAX_LONG_TURNS, MAX_SLOW,
    Batch, Flow, Handler, LongTurn, State, Task,
)
from noria._core.recorder.tables cimport NOT_FOUND, table_delete, table_get, table_set

cdef enum:
    EVICTION_CHOICE = 32    # tasks or connections of which the least recent one is forgotten

cdef inline uint64_t address_in(uint64_t word) noexcept nogil:
    """The lower 48 bits: the address of an object."""
    return word & <uint64_t>0xffffffffffff

cdef inline int64_t task_activity(Task *task) noexcept nogil:
    return max(max(task.last_step, task.created), task.replaced)

cdef inline int32_t add_task(State *s, uint64_t id, int64_t created) noexcept nogil:
    """Return the index of a new entry for a task; the least recent of some others makes room."""
    cdef int32_t index, _, old = table_get(&s.task_table, id)
    cdef Task *task
    if old != NOT_FOUND:
        s.tasks[old].replaced = created
    if s.task_count < s.max_tasks:
        index = s.task_count
        s.task_count += 1
    else:
        index = s.task_hand
        for _ in range(EVICTION_CHOICE):
            if task_activity(&s.tasks[s.task_hand]) < task_activity(&s.tasks[index]):
                index = s.task_hand
            s.task_hand = (s.task_hand + 1) % s.max_tasks
        if table_get(&s.task_table, s.tasks[index].id) == index:
            table_delete(&s.task_table, s.tasks[index].id)
    task = &s.tasks[index]
    memset(task, 0, sizeof(Task))
    task.id = id
    task.created = created
    if not table_set(&s.task_table, id, index):
        s.failed = True
    return index

cdef inline int32_t find_task(State *s, uint64_t id) noexcept nogil:
    cdef int32_t index = table_get(&s.task_table, id)
    return add_task(s, id, 0) if index == NOT_FOUND else index

cdef inline void keep_slow(State *s, Handler *handler, int64_t duration) noexcept nogil:
    """Keep the longest calls."""
    cdef int i
    if s.slow_count < MAX_SLOW:
        i = s.slow_count
        s.slow_count += 1
    else:
        i = s.slow_least
        if duration <= s.slow[i].duration:
            return
    s.slow[i].handler = handler[0]
    s.slow[i].duration = duration
    if s.slow_count == MAX_SLOW:
        s.slow_least = 0
        for i in range(1, MAX_SLOW):
            if s.slow[i].duration < s.slow[s.slow_least].duration:
                s.slow_least = i

cdef inline void end_handler(State *s, Handler *handler, int64_t duration) noexcept nogil:
    cdef Task *task
    count_value(&s.handler, duration)
    if not count_call(&s.codes, handler.kind, handler.code, duration):
        s.failed = True
    if handler.task_index != NOT_FOUND:
        task = &s.tasks[handler.task_index]
        if task.id == handler.task:
            task.busy += duration
            if duration > task.longest:
                task.longest = duration
    if duration > s.turn_longest_duration:
        s.turn_longest_duration = duration
        s.turn_longest = handler[0]
    if s.slow_count < MAX_SLOW or duration > s.slow[s.slow_least].duration:
        keep_slow(s, handler, duration)

cdef inline void end_handlers(State *s, int64_t now) noexcept nogil:
    """End the handlers that run; those of a group share the time since its begin."""
    cdef int64_t whole, share
    cdef int i, _i, n = s.group_count
    if n == 0:
        return
    whole = max(now - s.group[0].start, 0)
    share = share_of(whole, n)
    for i in range(n - 1):
        end_handler(s, &s.group[i], share)
    end_handler(s, &s.group[n - 1], whole - share * (n - 1))
    s.group_count = 0
    s.handler_end = now
    if s.group_turns:
        # The first turn may have more handlers, the others have one each; the last has not ended.
        count_value(&s.turn, max(s.group[0].start + share * (n - s.group_turns) - s.turn_start, 0))
        for _i in range(1, s.group_turns):
            count_value(&s.turn, share)
        s.turn_start = max(s.turn_start, s.group[0].start + share * (n - 1))
        s.turn_first = s.events - 1
        s.group_turns = 0

cdef inline void end_turn(State *s, int64_t now) noexcept nogil:
    cdef int64_t duration
    cdef LongTurn *turn
    end_handlers(s, now)
    if not s.in_turn:
        return
    s.in_turn = False
    duration = max(now - s.turn_start, 0)
    count_value(&s.turn, duration)
    if duration > s.sample.longest_turn:
        s.sample.longest_turn = duration
    if duration > s.max_block:
        turn = &s.long_turns[(s.long_count + s.long_lost) % MAX_LONG_TURNS]
        if s.long_count == MAX_LONG_TURNS:
            s.long_lost += 1
        else:
            s.long_count += 1
        turn.start = s.turn_start
        turn.end = now
        turn.delay = s.turn_delay
        turn.waited = s.turn_waited
        turn.handlers = s.events - s.turn_first
        turn.longest = s.turn_longest

cdef inline void begin_turn(State *s, uint64_t queued, int64_t now) noexcept nogil:
    end_turn(s, now)
    s.turns += 1
    s.sample.turns += 1
    s.in_turn = True
    s.turn_start = now
    s.turn_delay = 0
    s.turn_waited = 0
    s.turn_first = s.events
    s.turn_longest_duration = -1
    memset(&s.turn_longest, 0, sizeof(Handler))
    s.turn_begun = True
    s.turn_queue = queued & <uint64_t>0xffffffff
    s.timers_pending = queued >> 32

cdef inline void add_delay(State *s, int64_t queued, int64_t now) noexcept nogil:
    """Count an event's time in the queue, also for the long turns in which it waited."""
    cdef int64_t overlap
    cdef LongTurn *turn
    cdef uint64_t last = s.long_count + s.long_lost
    cdef int i
    count_value(&s.queue_delay, now - queued)
    if now - queued > s.sample.longest_delay:
        s.sample.longest_delay = now - queued
    if s.in_turn:
        overlap = now - max(queued, s.turn_start)
        if overlap > 0:
            s.turn_delay += overlap
            s.turn_waited += 1
    for i in range(min(s.long_count, 8)):
        turn = &s.long_turns[(last - 1 - i) % MAX_LONG_TURNS]
        if queued >= turn.end:
            break
        turn.delay += turn.end - max(queued, turn.start)
        turn.waited += 1

cdef inline void keep_flow(State *s, uint64_t origin, int64_t delay) noexcept nogil:
    """Keep which handler queued the one that begins, if its delay is one of the longest."""
    cdef Flow *flows = s.flows
    cdef int32_t i, child
    if s.flow_count < s.flow_limit:
        i = s.flow_count
        s.flow_count += 1
        while i and flows[(i - 1) >> 1].delay > delay:
            flows[i] = flows[(i - 1) >> 1]
            i = (i - 1) >> 1
    elif delay <= flows[0].delay:
        return
    else:
        i = 0
        while True:
            child = 2 * i + 1
            if child + 1 < s.flow_limit and flows[child + 1].delay < flows[child].delay:
                child += 1
            if child >= s.flow_limit or flows[child].delay >= delay:
                break
            flows[i] = flows[child]
            i = child
    flows[i].origin = origin
    flows[i].handler = s.handler_number
    flows[i].delay = delay

cdef inline bint shares_time(State *s, uint64_t ticks) noexcept nogil:
    """Whether a handler that begins then shares the time of the ones before it."""
    return 0 < s.group_count < MAX_GROUP and ticks == s.group_ticks

cdef inline void dispatch(State *s, uint64_t ticks, int kind, uint64_t a, uint64_t b,
                          int64_t now) noexcept nogil:
    """A handler begins."""
    cdef Handler *handler
    cdef Batch event
    cdef Task *task
    cdef bint known
    if not shares_time(s, ticks):
        end_handlers(s, now)
        s.group_ticks = ticks
    update_tail(s, a >> 48, now)
    known = take_event(s, &event)
    handler = &s.group[s.group_count]
    handler.start = now
    handler.fd = -1
    handler.task = 0
    handler.task_index = NOT_FOUND
    handler.waiting = <int64_t>(s.tail - s.taken) if s.taken_known else 0
    s.events += 1
    s.sample.events += 1
    s.handler_number += 1
    if kind == IO:
        s.io += 1
        handler.kind = CODE_PROTOCOL
        handler.fd = <int>(a & 0x7fffffff)
        handler.code = address_in(b)
    else:
        handler.code = address_in(a)
        if kind == STEP or kind == TIMER_STEP:
            s.steps += 1
            s.sample.steps += 1
            handler.kind = CODE_TASK
            handler.task = address_in(b)
            handler.task_index = find_task(s, handler.task)
            task = &s.tasks[handler.task_index]
            task.steps += 1
            task.last_step = now
            if handler.code:
                task.code = handler.code
            if known:
                task.scheduled += max(now - event.time, 0)
                task.self_wakes += event.task == handler.task
                if event.fd >= 0 and <size_t>event.fd < s.fd_count and s.fds[event.fd]:
                    s.connections[s.fds[event.fd] - 1].user = task.code
        elif kind == TIMER_CALL:
            handler.kind = CODE_TIMER
        else:
            handler.kind = CODE_CALLBACK
        if kind == TIMER_CALL or kind == TIMER_STEP:
            s.timers_fired += 1
            if known and event.due:
                count_value(&s.lateness, now - event.due)
    if known:
        add_delay(s, min(event.time, now), now)
        if event.handler and s.flow_limit:
            keep_flow(s, event.handler, now - event.time)
    s.last_handler = handler[0]
    s.group_count += 1
