"""Writing records: what the loop's hot path does, in C, behind one branch where it is off.

A model's `ring` is NULL unless a recorder is attached to its loop. All records of a ring are
written by threads that hold the GIL, so one of them writes at a time.
"""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t

from noria._core.recorder.events cimport Record, RecordKind, RingHeader, TAIL_SHIFT

cdef enum:
    KNOWN_IDS = 512     # entries of the table of interned objects that are found by one compare
    MAX_SEARCHED = 4096     # records
    BUILTIN_IDS = 64    # entries of the table of the names of built-in functions

cdef struct BuiltinId:
    void *definition            # PyMethodDef, which is never freed
    PyObject *type              # of the object that a method is bound to; may be another by now
    uint64_t id

# What is rare, and loaded with the first recorder: the modules of the loop import none of it.
cdef struct Functions:
    uint64_t (*identify_slowly)(Ring *ring, PyObject *o) noexcept
    void (*record_call)(Ring *ring, PyObject *callback, PyObject *args, uint64_t tail,
                        int kind) noexcept
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
    #define noria_publish(place, value) __atomic_store_n(place, value, __ATOMIC_RELEASE)
    #define noria_acquire(place) __atomic_load_n(place, __ATOMIC_ACQUIRE)
    """
    uint64_t read_counter "noria_counter"(bint counts_cycles) noexcept nogil
    PyObject *type_of "noria_type_of"(PyObject *o) noexcept
    void publish "noria_publish"(uint64_t *place, uint64_t value) noexcept nogil
    uint64_t load_acquire "noria_acquire"(uint64_t *place) noexcept nogil

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
    record_at(ring, ticks_of(ring), kind, a, b)

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
        kind = <int>(at.stamp & 0xff)
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
