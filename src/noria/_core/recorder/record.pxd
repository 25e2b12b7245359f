"""Writing records: what the loop's hot path does, in C, behind one branch where it is off.

A model's `ring` is NULL unless a recorder is attached to its loop. All records of a ring are
written by threads that hold the GIL, so one of them writes at a time.
"""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t

from noria._core.recorder.events cimport (
    FIRST_OF_TURN, KIND_MASK, Record, RecordKind, RingHeader, TAIL_SHIFT,
)

cdef enum:
    KNOWN_IDS = 512     # entries of the table of interned objects that are found by one compare
    MAX_SEARCHED = 4096     # records
    BUILTIN_IDS = 64    # entries of the table of the names of built-in functions

cdef struct BuiltinId:
    void *definition            # PyMethodDef, which is never freed
    PyObject *type              # of the object that a method is bound to; may be another by now
    uint64_t id

# A counter that a thread increments every few ms while rings share readings of the clock: see
# watchdog.pyx. A handler during which it has changed was not short.
cdef struct Beat:
    uint64_t count
    uint64_t wanted_until       # the count at which it may stop
    uint64_t running            # threads that increment it
    int wake_fd                 # an eventfd that starts it; -1: no thread is there

# What is rare, and loaded with the first recorder: the modules of the loop import none of it.
cdef struct Functions:
    uint64_t (*identify_slowly)(Ring *ring, PyObject *o) noexcept
    void (*record_call)(Ring *ring, PyObject *callback, PyObject *args, uint64_t tail,
                        int kind) noexcept
    uint64_t (*read_begin)(Ring *ring, uint64_t code) noexcept
    void (*record_clock)(Ring *ring) noexcept
    void (*record_caller)(Ring *ring, int fd, PyObject *base_frame) noexcept
    void (*record_task)(Ring *ring, PyObject *task, PyObject *coroutine, PyObject *name) noexcept

cdef struct Ring:
    RingHeader *header
    Record *records
    uint64_t mask
    uint64_t head               # records written
    uint64_t base               # the counter when the ring was made
    uint64_t next_clock         # ticks from which on the next CLOCK record is due
    uint64_t clock_period       # ticks between two of them
    bint counts_cycles          # ticks are those of the CPU's time stamp counter
    # When handlers begin. Short handlers with one code, one after the other, are a run.
    uint64_t now                # the last reading of the clock, of a turn or a handler
    bint now_unused             # it is a turn's, whose first handler begins then, too
    int first                   # FIRST_OF_TURN if the next handler's record stands for its turn
    uint64_t timers             # in the last TURN record
    uint64_t run_code
    uint64_t run_began          # reading at the begin of the handlers that share one
    int run_size                # how many share it
    int run_left                # how many of them may still begin
    int run_count               # readings after which the handlers were found short
    uint64_t run_beat           # the beat's count then
    uint64_t short_ticks
    Beat *beat
    Ring **holder               # where the loop's model points to this ring; NULL: not attached
    Functions *functions
    PyObject *recorder          # borrowed
    PyObject *known[KNOWN_IDS]
    BuiltinId builtins[BUILTIN_IDS]

cdef extern from *:
    """
    #include <stdint.h>
    #include <time.h>
    #if defined(__x86_64__)
    #include <x86intrin.h>
    #define noria_cycles() __rdtsc()
    #else
    #define noria_cycles() ((uint64_t)0)    /* not used: see counts_cycles in ring.pyx */
    #endif
    static inline uint64_t noria_counter(int counts_cycles) {
        struct timespec now;
        if (counts_cycles) return noria_cycles();
        clock_gettime(CLOCK_MONOTONIC, &now);
        return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    }
    #define noria_type_of(o) ((PyObject *)Py_TYPE(o))
    #define noria_is_function(o) Py_IS_TYPE(o, &PyFunction_Type)
    #define noria_publish(place, value) __atomic_store_n(place, value, __ATOMIC_RELEASE)
    #define noria_acquire(place) __atomic_load_n(place, __ATOMIC_ACQUIRE)
    #define noria_relaxed(place) __atomic_load_n(place, __ATOMIC_RELAXED)
    """
    uint64_t read_counter "noria_counter"(bint counts_cycles) noexcept nogil
    PyObject *type_of "noria_type_of"(PyObject *o) noexcept
    bint is_function "noria_is_function"(PyObject *o) noexcept
    PyObject *PyFunction_GET_CODE(PyObject *o) noexcept
    void publish "noria_publish"(uint64_t *place, uint64_t value) noexcept nogil
    uint64_t load_acquire "noria_acquire"(uint64_t *place) noexcept nogil
    uint64_t load_relaxed "noria_relaxed"(uint64_t *place) noexcept nogil

cdef inline uint64_t ticks_of(Ring *ring) noexcept:
    """Ticks since the ring was made."""
    return read_counter(ring.counts_cycles) - ring.base

cdef inline void record_at(Ring *ring, uint64_t ticks, int kind, uint64_t a, uint64_t b) noexcept:
    """Write a record with a given time."""
    cdef Record *place = &ring.records[ring.head & ring.mask]
    place.stamp = ticks << 8 | <unsigned>kind
    place.a = a
    place.b = b
    ring.head += 1
    publish(&ring.header.head, ring.head)

cdef inline void record(Ring *ring, int kind, uint64_t a, uint64_t b) noexcept:
    """Write a record."""
    ring.run_left = 0
    ring.now_unused = False
    record_at(ring, ticks_of(ring), kind, a, b)

cdef inline bint shares_reading(Ring *ring) noexcept:
    """Whether a handler of the run may begin at the last reading of the clock."""
    return ring.run_left > 0 and ring.run_beat == load_relaxed(&ring.beat.count)

cdef inline void record_begin_at(Ring *ring, uint64_t ticks, int kind, uint64_t a,
                                 uint64_t b) noexcept:
    record_at(ring, ticks, kind | ring.first, a, b)
    ring.first = 0

cdef inline void record_handler(Ring *ring, int kind, uint64_t code, uint64_t tail,
                                uint64_t b) noexcept:
    """Write the record of a callback or step that begins."""
    cdef uint64_t ticks
    if code == ring.run_code and shares_reading(ring):
        ring.run_left -= 1
        ticks = ring.now
    else:
        ticks = ring.functions.read_begin(ring, code)
    record_begin_at(ring, ticks, kind, code | tail << TAIL_SHIFT, b)

cdef inline bint record_repeated(Ring *ring, PyObject *callback, uint64_t tail) noexcept:
    """Record a callback if it is the run's and may share the reading; return whether it is.

    The loop tries this before `record_call`, whose function calls cost as much as the rest.
    """
    cdef uint64_t code = <uint64_t>callback
    if not shares_reading(ring):
        return False
    if is_function(callback):
        code = <uint64_t>PyFunction_GET_CODE(callback)
    if code != ring.run_code:
        return False
    ring.run_left -= 1
    record_begin_at(ring, ring.now, RecordKind.CALL, code | tail << TAIL_SHIFT, 0)
    return True

cdef inline bint begin_repeated_turn(Ring *ring, uint64_t timers) noexcept:
    """Begin a turn of one event if it may share the reading of the one before; return that."""
    if timers != ring.timers or not shares_reading(ring):
        return False
    ring.first = FIRST_OF_TURN
    return True

cdef inline void record_io(Ring *ring, uint64_t a, uint64_t b) noexcept:
    """Write the record of a channel's handler that begins."""
    cdef uint64_t ticks = ring.now if ring.now_unused else ticks_of(ring)
    ring.run_left = 0
    ring.now_unused = False
    record_begin_at(ring, ticks, RecordKind.IO, a, b)

cdef inline uint64_t read_turn(Ring *ring, bint may_share) noexcept:
    """The time at which a turn begins, which is also its first handler's."""
    if not (may_share and shares_reading(ring)):
        ring.run_left = 0
        ring.now = ticks_of(ring)
        ring.now_unused = True
    return ring.now

cdef inline void record_transfer(Ring *ring, int kind, int fd, Py_ssize_t result) noexcept:
    """Write a record of a system call on a descriptor; `result` is its result, or -errno."""
    if result >= 0:
        record(ring, kind, <uint32_t>fd, <uint64_t>result)
    else:
        record(ring, kind, <uint32_t>fd | <uint64_t>-result << 32, 0)

cdef inline bint is_known(Ring *ring, PyObject *o) noexcept:
    return ring.known[(<size_t>o >> 5) & (KNOWN_IDS - 1)] == o

cdef inline uint64_t identify(Ring *ring, PyObject *o) noexcept:
    """The id of a code object, a type or a string; it is interned if it is new."""
    if is_known(ring, o):
        return <uint64_t>o
    return ring.functions.identify_slowly(ring, o)

cdef inline uint64_t identify_type(Ring *ring, PyObject *o) noexcept:
    """The id of an object's type."""
    return identify(ring, type_of(o))

cdef inline void record_call(Ring *ring, PyObject *callback, PyObject *args, uint64_t tail,
                             int kind) noexcept:
    """Record a callback that is about to be called: see calls.pxd."""
    ring.functions.record_call(ring, callback, args, tail, kind)

cdef inline uint64_t handler_of(Ring *ring) noexcept:
    """The task, or else the code, of the handler that was recorded last; 0: too long ago."""
    cdef uint64_t i = ring.head
    cdef Record *at
    cdef int kind
    while i and ring.head - i < MAX_SEARCHED and ring.head - i < ring.mask:
        i -= 1
        at = &ring.records[i & ring.mask]
        kind = <int>(at.stamp & KIND_MASK)
        if kind == RecordKind.STEP or kind == RecordKind.TIMER_STEP or kind == RecordKind.IO:
            return at.b
        if kind == RecordKind.CALL or kind == RecordKind.TIMER_CALL:
            return at.a & ((<uint64_t>1 << TAIL_SHIFT) - 1)
    return 0

cdef inline void detach_ring(Ring **holder) noexcept:
    """Have the model with `holder` record no more."""
    cdef Ring *ring = holder[0]
    if ring != NULL:
        holder[0] = NULL
        ring.holder = NULL
        ring.header.turn_started = 0
        ring.header.thread_native_id = 0
