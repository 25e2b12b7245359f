"""The watchdog's wait: a thread that looks at the rings of loops without needing the GIL.

A turn that lasts longer than the limit is reported while it lasts: `wait` returns. Time in which
the whole process did not run (SIGSTOP, a machine without a free CPU) does not count: this thread
overslept as well.

The same thread makes the beat, a counter that tells rings that share readings of the clock (see
record.pxd) that time has passed; it beats only while a ring wants that.
"""

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset

from noria._core.recorder.events cimport (
    BEAT_NS, FIRST_OF_TURN, HEADER_SIZE, KIND_MASK, Record, RecordKind, RingHeader,
)
from noria._core.recorder.record cimport load_acquire, load_relaxed, read_counter
from noria._core.recorder.ring cimport beat
from noria._core.sys cimport (
    MAP_FAILED, MAP_SHARED, O_CLOEXEC, POLLIN, PROT_READ, c_close, c_ppoll, c_pread, c_read,
    c_write, errno, mmap, monotonic_ns, munmap, pollfd, timespec,
)

import os
import sys

cdef extern from "<sys/eventfd.h>" nogil:
    int eventfd(unsigned count, int flags)
    int EFD_NONBLOCK, EFD_CLOEXEC

cdef extern from "<fcntl.h>" nogil:
    int c_open "open"(const char *path, int flags, ...)
    int O_RDONLY

cdef extern from "<stdio.h>" nogil:
    int snprintf(char *text, size_t size, const char *format, ...)

cdef extern from *:
    """
    #include <stdint.h>
    #include <stdlib.h>
    static int noria_parse(const char *text, uint64_t *run, uint64_t *queue) {
        char *end;
        *run = strtoull(text, &end, 10);
        *queue = strtoull(end, NULL, 10);
        return 0;
    }
    """
    int parse_schedstat "noria_parse"(const char *text, uint64_t *run,
                                      uint64_t *queue) noexcept nogil

cdef extern from *:
    """
    #define noria_add(place, value) ((void)__atomic_fetch_add(place, value, __ATOMIC_RELAXED))
    """
    void add_relaxed "noria_add"(uint64_t *place, int value) noexcept nogil

cdef enum:
    MAX_WATCHED = 64            # loops
    OVERSLEPT_NS = 50000000     # from which on the process counts as having been stopped
    MIN_POLL_NS = 2000000       # while a block lasts
    MAX_POLL_NS = 50000000
    MAX_SCANNED = 1 << 20       # records of a turn
    MAX_STACK = 1000            # frames

cdef struct Watched:
    RingHeader *header
    Record *records
    size_t size
    uint64_t mask
    int64_t loop
    bint counts_cycles
    int schedstat               # of the thread that runs the loop, or -1
    int64_t native_id           # of that thread
    uint64_t turn               # turn_started of the turn that is watched; 0: none
    uint64_t last               # the turn of the last event
    int64_t excused             # ns of it in which the process did not run
    uint64_t run_ns             # the thread's schedstat when the turn began, as far as known
    uint64_t queue_ns
    int64_t looked_at           # CLOCK_MONOTONIC of the last look between turns; 0: none
    uint64_t looked_run         # the thread's schedstat then
    uint64_t looked_queue
    bint reported
    int64_t next_look           # CLOCK_MONOTONIC of the next sample of a block


cdef class LoopWatcher:
    """Waits until a loop is blocked. One thread calls `wait`; any thread the other methods.

    Args:
        max_block: ns that a turn may last.

    Raises OSError if there is no descriptor.
    """

    cdef Watched watched[MAX_WATCHED]
    cdef int count
    cdef readonly int64_t max_block
    cdef int wake_fd
    cdef bint stopping
    cdef bint called            # by `wake`; to set by whoever holds the GIL
    cdef bint waiting
    cdef uint64_t overdue_turn  # a block that `wait` reports once it has the GIL; 0: none
    cdef int64_t overdue_loop
    cdef readonly uint64_t turn     # turn_started of the event that `wait` has returned last
    # The stack of the loop's thread at that event, as `take_stack` returns it.
    cdef readonly list stack
    cdef object pending         # list of (loop id, descriptor): the rings to watch from now on

    def __cinit__(self, int64_t max_block):
        self.max_block = max_block
        self.wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
        if self.wake_fd < 0:
            raise OSError(errno, os.strerror(errno), "eventfd")
        if beat.wake_fd < 0:
            beat.wake_fd = self.wake_fd

    def __dealloc__(self):
        self.unmap_all()
        self.close_wake_fd()

    def watch(self, rings):
        """Watch these rings, a list of (loop id, descriptor that is open for reading).

        The descriptors are closed by the watcher.
        """
        former, self.pending = self.pending, list(rings)
        if self.wake_fd < 0:    # closed
            former, self.pending = self.pending, None
        for _, fd in former or ():
            os.close(fd)
        self.wake()

    def stop(self):
        """Have `wait` return None, now and always."""
        self.stopping = True
        self.wake()

    def wake(self):
        cdef uint64_t one = 1
        self.called = True
        if self.wake_fd >= 0:
            c_write(self.wake_fd, &one, sizeof(one))

    def close(self):
        """Free everything; no thread may be in `wait`."""
        self.watch([])
        self.pending = None
        self.unmap_all()
        self.close_wake_fd()

    cdef void close_wake_fd(self) noexcept:
        if self.wake_fd >= 0:
            if beat.wake_fd == self.wake_fd:
                beat.wake_fd = -1
            c_close(self.wake_fd)
            self.wake_fd = -1

    def wait(self):
        """Wait until something is to be reported.

        Returns (event, loop id, started, duration, excused, cpu, runqueue, gil_wait, gil_cpu, over)
        with event "blocked" (the limit was passed), "still" (a block lasts), "ended", or "excused"
        (a turn has ended that was long, but not for its code: the process did not run for a while,
        or the thread waited for a CPU); None after `stop`.
        Times are CLOCK_MONOTONIC in ns; `excused` is the part of `duration` in which the process
        did not run, cpu and runqueue are what the thread did since the turn was first seen.
        `gil_wait` is how long this thread waited for the GIL, gil_cpu what the loop's thread ran
        meanwhile; `over` says whether the turn had ended when this thread got it.
        """
        cdef int index = -1
        cdef int event = 0
        cdef int64_t before, waited
        cdef uint64_t run = 0, queue = 0, turn = 0, run_before, run_now, queue_now
        cdef Watched *one
        while not self.stopping:
            self.called = False
            if self.pending is not None:
                self.take_pending()
            with nogil:
                event = self.look(&index, &run, &queue, &turn)
                if event == 1:
                    self.overdue_loop = self.watched[index].loop
                    self.overdue_turn = turn
                before = monotonic_ns()
            waited = monotonic_ns() - before
            self.overdue_turn = 0
            if event == 0:
                continue
            one = &self.watched[index]
            # In compiled code, which does not release the GIL: the loop's thread may continue then.
            self.stack = take_stack(one.header.thread_ident)
            one.last = self.turn = turn
            run_before = run
            if event == 1:
                read_schedstat(one, &run_now, &queue_now)
                # Both are 0 if the run has ended meanwhile.
                run, queue = max(run, run_now), max(queue, queue_now)
                if elapsed(one) - one.excused - since(queue, one.queue_ns) < self.max_block:
                    one.reported = False    # it was waiting for a CPU, which is known only now
                    continue
            excused = one.excused
            if event >= 3:
                one.excused = 0
            return (("", "blocked", "still", "ended", "excused")[event], one.loop,
                    *self.times(one, turn, event), excused,
                    since(run, one.run_ns), since(queue, one.queue_ns), waited,
                    since(run, run_before),
                    one.header.turn_started != turn)
        return None

    def overdue(self):
        """Return (loop id, turn_started) of a block that lasts and `wait` has not reported yet.

        For another thread that has got the GIL first: when `wait` gets it, the block may be over.
        None if there is no such block.
        """
        cdef int i
        if self.overdue_turn:
            for i in range(self.count):
                if self.watched[i].loop == self.overdue_loop and \
                        self.watched[i].header.turn_started == self.overdue_turn:
                    return (self.overdue_loop, self.overdue_turn)
        return None

    def peek(self):
        """Return (loop id, turn_started, stack) of the block that `overdue` names, or None."""
        overdue = self.overdue()
        return None if overdue is None else (*overdue, take_stack(self.thread_of(overdue[0])))

    def turn_of(self, int64_t loop):
        """Return turn_started and turns of a loop's ring, to compare later; None if unknown."""
        cdef int i
        for i in range(self.count):
            if self.watched[i].loop == loop:
                return (self.watched[i].header.turn_started, self.watched[i].header.turns)
        return None

    def thread_of(self, int64_t loop):
        """Return threading.get_ident() of the thread that runs a loop; 0 if it does not run."""
        cdef int i
        for i in range(self.count):
            if self.watched[i].loop == loop:
                return self.watched[i].header.thread_ident
        return 0

    def turn_figures(self, int64_t loop):
        """Return what the ring says of the turn that `wait` has reported: a dict.

        "handlers": number of them that have begun; "longest": ns of the longest; "kind", "a", "b"
        of its record; "after": handlers that began after it; "queued": events when the turn began;
        "next": events when the next one began, 0 if it has not; "complete": whether the turn's
        beginning was still in the ring. None if the loop is unknown.
        """
        cdef int i
        for i in range(self.count):
            if self.watched[i].loop == loop:
                return scan(&self.watched[i])
        return None

    def take_pending(self):
        """Watch the pending rings; those that are watched already keep their state."""
        cdef Watched *one
        cdef void *place
        cdef int i
        pending, self.pending = self.pending, None
        wanted = {loop for loop, _ in pending}
        for i in range(self.count - 1, -1, -1):
            if self.watched[i].loop not in wanted:
                self.unmap(i)
        known = {self.watched[i].loop for i in range(self.count)}
        for loop, fd in pending:
            try:
                if loop in known or self.count == MAX_WATCHED:
                    continue
                one = &self.watched[self.count]
                memset(one, 0, sizeof(Watched))
                one.schedstat = -1
                one.size = os.fstat(fd).st_size
                place = mmap(NULL, one.size, PROT_READ, MAP_SHARED, fd, 0)
                if place == MAP_FAILED:
                    continue
                one.header = <RingHeader *>place
                one.records = <Record *>(<char *>place + HEADER_SIZE)
                one.mask = one.header.capacity - 1
                one.counts_cycles = one.header.ns_per_tick != 1.0
                one.loop = loop
                self.count += 1
            finally:
                os.close(fd)

    cdef void unmap(self, int i) noexcept:
        munmap(self.watched[i].header, self.watched[i].size)
        if self.watched[i].schedstat >= 0:
            c_close(self.watched[i].schedstat)
        self.count -= 1
        self.watched[i] = self.watched[self.count]

    cdef void unmap_all(self) noexcept:
        while self.count:
            self.unmap(self.count - 1)

    cdef tuple times(self, Watched *one, uint64_t turn, int event):
        """(started, duration) of a turn; it ends with the record that ends it, if that is there."""
        cdef int64_t started = one.header.monotonic_base_ns
        cdef uint64_t end = read_counter(one.counts_cycles) - one.header.ticks_base
        cdef uint64_t found
        cdef int64_t duration
        if event >= 3:
            found = end_of_turn(one, turn)
            if found:
                end = found
        duration = <int64_t>((end - turn) * one.header.ns_per_tick)
        # By this clock's present value: ns_per_tick is an estimate.
        started = monotonic_ns() - <int64_t>(
            (read_counter(one.counts_cycles) - one.header.ticks_base - turn)
            * one.header.ns_per_tick)
        return (started, duration)

    cdef int look(self, int *index, uint64_t *run, uint64_t *queue, uint64_t *turn) noexcept nogil:
        """Sleep and look, until an event: 1 blocked, 2 a block lasts, 3 ended; 0: woken."""
        cdef int64_t now, sleep, left
        cdef int i, event
        while True:
            now = monotonic_ns()
            sleep = self.max_block if self.count else <int64_t>3600 * 1000000000
            for i in range(self.count):
                left = self.look_at(&self.watched[i], now, run, queue, turn, &event)
                if event:
                    index[0] = i
                    return event
                if left < sleep:
                    sleep = left
            if sleep < MIN_POLL_NS:
                sleep = MIN_POLL_NS
            if self.sleep(sleep):
                return 0

    cdef bint sleep(self, int64_t time) noexcept nogil:
        """Sleep for a time in ns, and beat if that is wanted; return whether `wake` was called."""
        cdef int64_t end = monotonic_ns() + time
        cdef bint beating, woken
        while time > 0:
            beating = load_relaxed(&beat.wanted_until) > load_relaxed(&beat.count)
            if beating:
                add_relaxed(&beat.running, 1)
            woken = self.sleep_once(min(time, <int64_t>BEAT_NS) if beating else time)
            if beating:
                add_relaxed(&beat.count, 1)
                add_relaxed(&beat.running, -1)
            if woken and self.called:
                return True         # else a ring wants the beat
            time = end - monotonic_ns()
        return False

    cdef bint sleep_once(self, int64_t time) noexcept nogil:
        cdef pollfd fds
        cdef timespec timeout
        cdef int64_t gap, began = monotonic_ns()
        cdef uint64_t token
        cdef int i
        fds.fd = self.wake_fd
        fds.events = POLLIN
        fds.revents = 0
        timeout.tv_sec = time // 1000000000
        timeout.tv_nsec = time % 1000000000
        if c_ppoll(&fds, 1, &timeout, NULL) > 0:
            c_read(self.wake_fd, &token, sizeof(token))
            return True
        gap = monotonic_ns() - began
        if gap - time > OVERSLEPT_NS:
            # When it was stopped within that time is not known.
            for i in range(self.count):
                self.excuse(&self.watched[i], gap)
        return False

    cdef void excuse(self, Watched *one, int64_t gap) noexcept nogil:
        """Do not count the time in which the process did not run.

        The schedstat of the loop's thread has what it ran and waited for a CPU meanwhile.
        """
        cdef uint64_t run, queue, current
        read_schedstat(one, &run, &queue)
        if one.looked_at and run >= one.looked_run and queue >= one.looked_queue:
            gap -= <int64_t>(run - one.looked_run + queue - one.looked_queue)
        if gap <= 0:
            return
        current = load_acquire(&one.header.turn_started)
        if current == one.turn:
            one.excused += gap
        elif current and not one.turn:
            begin_turn(one, current, monotonic_ns(), run, queue)
            one.excused = min(gap, elapsed(one))

    cdef bint waited_long(self, Watched *one, uint64_t queue) noexcept nogil:
        """Whether the turn that has ended was longer than the limit, and waited for a CPU."""
        # On an idle machine the records are not searched.
        return since(queue, one.queue_ns) >= self.max_block // 4 and not self.was_short(one)

    cdef bint was_short(self, Watched *one) noexcept nogil:
        """Whether the turn that has ended was shorter than the limit, as far as known."""
        cdef uint64_t end = end_of_turn(one, one.turn)
        return end == 0 or <int64_t>((end - one.turn) * one.header.ns_per_tick) < self.max_block

    cdef int64_t look_at(self, Watched *one, int64_t now, uint64_t *run, uint64_t *queue,
                         uint64_t *turn, int *event) noexcept nogil:
        """Look at a loop; return ns until the next look, or set the event."""
        cdef uint64_t current = load_acquire(&one.header.turn_started)
        cdef int64_t lasted
        event[0] = 0
        read_schedstat(one, run, queue)
        turn[0] = one.turn
        if one.reported and current != one.turn:
            one.reported = False
            one.turn = 0
            event[0] = 3
            return 0
        if one.turn and one.excused:
            # What looked like a stop may be known now as waiting for a CPU.
            one.excused = min(one.excused, max(elapsed(one) - since(run[0], one.run_ns)
                                               - since(queue[0], one.queue_ns), <int64_t>0))
        if current != one.turn and one.turn and (one.excused or self.waited_long(one, queue[0])):
            one.turn = 0
            event[0] = 4
            return 0
        if current == 0:
            one.turn = 0
        elif current != one.turn:
            begin_turn(one, current, now, run[0], queue[0])
        one.looked_at, one.looked_run, one.looked_queue = now, run[0], queue[0]
        if current == 0:
            return self.max_block
        lasted = elapsed(one) - one.excused
        if lasted < self.max_block:
            return self.max_block - lasted
        if not one.reported and load_acquire(&one.header.turn_started) != current \
                and self.was_short(one):
            one.turn = 0    # it has ended meanwhile: this thread was late
            return 0
        turn[0] = one.turn
        if not one.reported:
            # Not the code's fault: the thread waited for a CPU.
            lasted -= since(queue[0], one.queue_ns)
            if lasted < self.max_block:
                return self.max_block - lasted
            one.reported = True
            one.next_look = now + look_interval(lasted)
            event[0] = 1
            return 0
        if now >= one.next_look:
            one.next_look = now + look_interval(lasted)
            event[0] = 2
            return 0
        return min(MIN_POLL_NS * 2, one.next_look - now)


cdef list take_stack(ident):
    """Return (code, line, trace function) of a thread's frames, innermost first."""
    cdef list stack = []
    frame = sys._current_frames().get(ident)
    while frame is not None and len(stack) < MAX_STACK:
        stack.append((frame.f_code, frame.f_lineno, frame.f_trace))
        frame = frame.f_back
    return stack


cdef void begin_turn(Watched *one, uint64_t turn, int64_t now, uint64_t run,
                     uint64_t queue) noexcept nogil:
    """Watch a turn that lasts or has just ended; `run` and `queue` are the thread's schedstat."""
    cdef int64_t lasted, ran, waited
    one.turn = turn
    one.excused = 0
    one.reported = False
    one.run_ns, one.queue_ns = run, queue
    if one.looked_at and run >= one.looked_run and queue >= one.looked_queue:
        # On a busy machine this thread may be late, too: the turn may have lasted for long. The
        # thread has waited in it for at most what it has waited since the last look, and has run
        # for at least what it cannot have run before.
        lasted = elapsed(one)
        waited = min(<int64_t>(queue - one.looked_queue), lasted)
        ran = <int64_t>(run - one.looked_run) - max(now - one.looked_at - lasted, <int64_t>0)
        one.queue_ns -= <uint64_t>waited
        one.run_ns -= <uint64_t>min(max(ran, <int64_t>0), lasted - waited)


cdef int64_t since(uint64_t now, uint64_t before) noexcept nogil:
    """The increase of a counter; 0 if it is unknown now, as 0."""
    return <int64_t>(now - before) if now > before else 0


cdef int64_t look_interval(int64_t lasted) noexcept nogil:
    """ns between two samples of a block: each is 5% longer than the one before."""
    return min(max(lasted // 20, <int64_t>MIN_POLL_NS * 2), <int64_t>MAX_POLL_NS * 20)


cdef int64_t elapsed(Watched *one) noexcept nogil:
    """ns since the turn began."""
    cdef uint64_t ticks = read_counter(one.counts_cycles) - one.header.ticks_base
    if ticks < one.turn:
        return 0
    return <int64_t>((ticks - one.turn) * one.header.ns_per_tick)


cdef void read_schedstat(Watched *one, uint64_t *run, uint64_t *queue) noexcept nogil:
    """Read how long the loop's thread has run and waited for a CPU, in ns; 0 if unknown."""
    cdef char text[96]
    cdef int64_t native_id = one.header.thread_native_id
    cdef long size
    run[0] = queue[0] = 0
    if native_id != one.native_id or one.schedstat < 0:
        if one.schedstat >= 0:
            c_close(one.schedstat)
            one.schedstat = -1
        one.native_id = native_id
        one.looked_at = 0       # of another thread
        if native_id <= 0:
            return
        snprintf(text, sizeof(text), "/proc/self/task/%ld/schedstat", <long>native_id)
        one.schedstat = c_open(text, O_RDONLY | O_CLOEXEC)
        if one.schedstat < 0:
            return
    size = c_pread(one.schedstat, text, sizeof(text) - 1, 0)
    if size > 0:
        text[size] = 0
        parse_schedstat(text, run, queue)


cdef bint ends_turn(uint64_t stamp) noexcept nogil:
    """Whether a record ends the turn before it."""
    cdef int kind = stamp & KIND_MASK
    return stamp & FIRST_OF_TURN or kind in (RecordKind.TURN, RecordKind.WAIT, RecordKind.POLL,
                                             RecordKind.RUN_END)


cdef uint64_t end_of_turn(Watched *one, uint64_t turn) noexcept nogil:
    """Ticks of the record that ended a turn; 0 if it is not there."""
    cdef uint64_t head = load_acquire(&one.header.head)
    cdef uint64_t oldest = head - one.mask if head > one.mask else 0
    cdef uint64_t end = 0, ticks
    cdef uint64_t position = head
    while position > oldest and head - position < MAX_SCANNED:
        position -= 1
        ticks = one.records[position & one.mask].stamp >> 8
        if ticks <= turn:
            break
        if ends_turn(one.records[position & one.mask].stamp):
            end = ticks
    return end


cdef bint is_handler(int kind) noexcept:
    return kind in (RecordKind.CALL, RecordKind.STEP, RecordKind.IO, RecordKind.TIMER_CALL,
                    RecordKind.TIMER_STEP)


cdef dict scan(Watched *one):
    cdef uint64_t turn = one.last
    cdef uint64_t head = load_acquire(&one.header.head)
    cdef uint64_t oldest = head - one.mask if head > one.mask else 0
    cdef uint64_t later, ticks, longest = 0, following = 0
    cdef uint64_t position = head
    cdef int64_t handlers = 0, after = 0, seen = 0
    cdef Record *record
    cdef Record slowest
    cdef bint complete = False
    cdef int kind
    memset(&slowest, 0, sizeof(slowest))
    later = read_counter(one.counts_cycles) - one.header.ticks_base
    while position > oldest and head - position < MAX_SCANNED:
        position -= 1
        record = &one.records[position & one.mask]
        ticks = record.stamp >> 8
        kind = record.stamp & KIND_MASK
        if ticks < turn or (ticks == turn and kind == RecordKind.TURN):
            complete = True
            break
        if ends_turn(record.stamp) and ticks > turn:
            # The turn ended before: what was seen so far belongs to later turns.
            handlers = seen = 0
            longest = 0
            if kind == RecordKind.TURN:
                following = record.a & 0xffffffff
            elif record.stamp & FIRST_OF_TURN:
                following = 1
            later = ticks
        elif is_handler(kind):
            if later > ticks and later - ticks > longest:
                longest = later - ticks
                slowest = record[0]
                after = seen
            handlers += 1
            seen += 1
            later = ticks
            if record.stamp & FIRST_OF_TURN:
                complete = True
                break
    return {"handlers": handlers, "longest": <int64_t>(longest * one.header.ns_per_tick),
            "kind": slowest.stamp & KIND_MASK, "a": slowest.a, "b": slowest.b, "after": after,
            "queued": one.header.turn_queue if one.header.turn_started == turn else 0,
            "next": following, "complete": complete}
