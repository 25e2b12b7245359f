"""The recorder: a ring of records in shared memory that other threads and processes can map.

events.pxd has the format. The memory is a memfd whose size is sealed, and that nobody else can map
writable. A record overwrites the oldest one; a reader that is too slow notices that by the header's
`head`. The writer never waits, allocates nothing and takes no lock.
"""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy, memset, strncpy

from noria._core.recorder.events cimport (
    FORMAT_VERSION, HEADER_SIZE, RECORD_SIZE, SHORT_NS, Record, RecordKind, RingHeader,
)
from noria._core.recorder.calls cimport find_task_layout, write_call, write_task
from noria._core.recorder.callers cimport write_caller
from noria._core.recorder.record cimport (
    KNOWN_IDS, Functions, Ring, detach_ring, load_relaxed, read_counter, record, record_at,
    ticks_of,
)
from noria._core.sys cimport (
    CLOCK_MONOTONIC, CLOCK_REALTIME, MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, c_close,
    c_fcntl, c_write, clock_gettime, errno, getpid, mmap, munmap, timespec,
)

import os
import time
from types import CodeType, FunctionType, MethodType

from noria.errors import NoriaError

cdef extern from "<sys/mman.h>" nogil:
    int memfd_create(const char *name, unsigned flags)

cdef extern from "<unistd.h>" nogil:
    int ftruncate(int fd, long size)

cdef extern from *:
    # Linux's ABI: older headers of libc lack some of these.
    """
    #define NORIA_MFD_CLOEXEC 1u
    #define NORIA_MFD_ALLOW_SEALING 2u
    #define NORIA_F_ADD_SEALS 1033
    #define NORIA_SEAL_SHRINK 2
    #define NORIA_SEAL_GROW 4
    #define NORIA_SEAL_FUTURE_WRITE 16
    """
    unsigned MFD_CLOEXEC "NORIA_MFD_CLOEXEC", MFD_ALLOW_SEALING "NORIA_MFD_ALLOW_SEALING"
    int F_ADD_SEALS "NORIA_F_ADD_SEALS", SEAL_SHRINK "NORIA_SEAL_SHRINK"
    int SEAL_GROW "NORIA_SEAL_GROW", SEAL_FUTURE_WRITE "NORIA_SEAL_FUTURE_WRITE"

cdef uint64_t UNKNOWN_TIMERS = ~<uint64_t>0

DEFAULT_CAPACITY = 2 ** 19      # records: 12 MiB

cdef enum:
    MIN_CAPACITY = 64
    MAX_CAPACITY = 1 << 30
    CALIBRATION_NS = 2000000    # at least, to measure ns_per_tick
    CLOCK_PERIOD_NS = 100000000
    CLOCK_ATTEMPTS = 4
    MAX_SHARED = 16         # handlers that share a reading of the clock
    READINGS_BEFORE_SHARING = 8
    BEATS_WANTED = 50       # after the last reading that was shared
    MAX_NAMES = 1 << 16         # interned objects, from which on new strings get the id 0

cdef struct Moment:             # the clocks at one time
    uint64_t counter
    int64_t monotonic
    int64_t realtime

beat.wake_fd = -1
cdef bint counts_cycles = False
cdef Moment imported            # when this module was imported

# Addresses of the open recorders of this process.
cdef set open_recorders = set()


cdef bint has_steady_counter():
    """Whether the CPU's time stamp counter runs at a constant rate on all cores.

    The kernel takes it as its clock only if it has found that to be so.
    """
    if os.uname().machine != "x86_64":
        return False
    try:
        with open("/sys/devices/system/clocksource/clocksource0/current_clocksource") as file:
            return file.read().strip() == "tsc"
    except OSError:
        return False


cdef int64_t clock_ns(int clock) noexcept:
    cdef timespec now
    clock_gettime(clock, &now)
    return <int64_t>now.tv_sec * 1000000000 + now.tv_nsec


cdef void read_clocks(Moment *moment) noexcept:
    """Read the clocks; the attempt that was interrupted least counts."""
    cdef Moment now
    cdef uint64_t before, shortest = 0
    cdef int attempt
    for attempt in range(CLOCK_ATTEMPTS):
        before = read_counter(counts_cycles)
        now.monotonic = clock_ns(CLOCK_MONOTONIC)
        now.realtime = clock_ns(CLOCK_REALTIME)
        now.counter = read_counter(counts_cycles)
        if attempt == 0 or now.counter - before < shortest:
            shortest = now.counter - before
            now.counter = before + shortest // 2
            moment[0] = now


cdef double measure_tick():
    """The nanoseconds of one tick."""
    cdef Moment now
    if not counts_cycles:
        return 1.0
    if clock_ns(CLOCK_MONOTONIC) - imported.monotonic < CALIBRATION_NS:
        time.sleep(CALIBRATION_NS / 1e9)
    read_clocks(&now)
    return (now.monotonic - imported.monotonic) / <double>(now.counter - imported.counter)


def detach_in_child():
    """Detach all recorders in the child of a fork, which must not write to its parent's rings."""
    for address in open_recorders:
        (<Recorder><PyObject *><size_t>address).abandon()
    open_recorders.clear()
    # The thread is the parent's.
    beat.running = 0
    beat.wake_fd = -1


os.register_at_fork(after_in_child=detach_in_child)


cdef class Recorder:
    """The records of one loop, in a ring; attach it with `Loop.attach_recorder`.

    Args:
        capacity: number of records, 24 bytes each; rounded up to a power of two.
        model: name of the loop's model.

    Raises ValueError for an impossible capacity, OSError if there is no memory or descriptor.
    """

    def __cinit__(self, uint64_t capacity=DEFAULT_CAPACITY, str model=""):
        self.fd = -1
        self.ids = {}
        self.names = []
        if not MIN_CAPACITY <= capacity <= MAX_CAPACITY:
            raise ValueError(f"the capacity is {MIN_CAPACITY} to {MAX_CAPACITY} records, "
                             f"not {capacity}")
        self.capacity = <uint64_t>1 << (<object>(capacity - 1)).bit_length()
        self.mapped = HEADER_SIZE + self.capacity * RECORD_SIZE
        self.map_memory()
        self.ring.recorder = <PyObject *>self
        self.ring.functions = &functions
        self.ring.beat = &beat
        self.ring.timers = UNKNOWN_TIMERS
        self.fill_header(model)
        open_recorders.add(<size_t><PyObject *>self)

    def map_memory(self):
        cdef void *place
        self.fd = memfd_create(b"noria-recorder", MFD_CLOEXEC | MFD_ALLOW_SEALING)
        if self.fd < 0:
            raise OSError(errno, os.strerror(errno), "memfd_create")
        if ftruncate(self.fd, self.mapped) < 0:
            raise OSError(errno, os.strerror(errno), "memory of the recorder")
        place = mmap(NULL, self.mapped, PROT_READ | PROT_WRITE, MAP_SHARED, self.fd, 0)
        if place == MAP_FAILED:
            raise OSError(errno, os.strerror(errno), "memory of the recorder")
        # Readers may rely on the size, and cannot write. Linux before 5.1 has no FUTURE_WRITE.
        c_fcntl(self.fd, F_ADD_SEALS, SEAL_SHRINK | SEAL_GROW)
        c_fcntl(self.fd, F_ADD_SEALS, SEAL_FUTURE_WRITE)
        self.ring.header = <RingHeader *>place
        self.ring.records = <Record *>(<char *>place + HEADER_SIZE)
        self.ring.mask = self.capacity - 1

    def fill_header(self, str model):
        cdef RingHeader *header = self.ring.header
        cdef Moment now
        cdef bytes name = model.encode()
        header.ns_per_tick = measure_tick()
        read_clocks(&now)
        self.ring.counts_cycles = counts_cycles
        self.ring.base = now.counter
        self.ring.clock_period = <uint64_t>(CLOCK_PERIOD_NS / header.ns_per_tick)
        self.ring.short_ticks = <uint64_t>(SHORT_NS / header.ns_per_tick)
        header.version = FORMAT_VERSION
        header.record_size = RECORD_SIZE
        header.capacity = self.capacity
        header.ticks_base = now.counter
        header.monotonic_base_ns = now.monotonic
        header.realtime_base_ns = now.realtime
        header.pid = getpid()
        strncpy(header.model, name, sizeof(header.model) - 1)
        memcpy(header.magic, b"NORIAREC", 8)

    def __dealloc__(self):
        open_recorders.discard(<size_t><PyObject *>self)
        self.release()

    cdef void abandon(self) noexcept:
        """Close in the child of a fork: the memory is the parent's, too."""
        if self.ring.holder != NULL:
            self.ring.holder[0] = NULL
            self.ring.holder = NULL
        self.release()

    cdef void release(self) noexcept:
        """Detach, and free the memory."""
        if self.ring.holder != NULL:
            detach_ring(self.ring.holder)
        if self.ring.header != NULL:
            munmap(self.ring.header, self.mapped)
            self.ring.header = NULL
        if self.fd >= 0:
            c_close(self.fd)
            self.fd = -1

    def close(self):
        """Detach the recorder from its loop and free its memory. A second call does nothing.

        Readers that have mapped the memory keep it.
        """
        open_recorders.discard(<size_t><PyObject *>self)
        self.release()

    @property
    def closed(self):
        """Whether `close` was called."""
        return self.ring.header == NULL

    @property
    def attached(self):
        """Whether a loop writes to this recorder."""
        return self.ring.holder != NULL

    @property
    def head(self):
        """The number of records written so far; the last `capacity` of them are there."""
        return self.ring.head

    def open_readonly(self):
        """Return a new descriptor of the memory that can be read and mapped read-only."""
        self.check_open()
        return os.open(f"/proc/self/fd/{self.fd}", os.O_RDONLY | os.O_CLOEXEC)

    def attach_to(self, size_t holder, str model):
        """Have a model write to this ring: for Loop.attach_recorder.

        `holder` is the address of the model's pointer to a ring.
        """
        cdef bytes name = model.encode()
        self.check_open()
        if self.ring.holder != NULL:
            raise NoriaError("the recorder is attached to a loop already: make one for each loop")
        find_task_layout()
        memset(self.ring.header.model, 0, sizeof(self.ring.header.model))
        strncpy(self.ring.header.model, name, sizeof(self.ring.header.model) - 1)
        self.ring.holder = <Ring **>holder
        self.ring.timers = UNKNOWN_TIMERS
        self.ring.first = self.ring.run_left = 0
        self.ring.now_unused = False
        self.ring.holder[0] = &self.ring

    def check_open(self):
        if self.ring.header == NULL:
            raise NoriaError("the recorder is closed")

    def now(self):
        """CLOCK_MONOTONIC in ns."""
        return clock_ns(CLOCK_MONOTONIC)

    def record(self, int kind, object a=0, object b=0):
        """Write a record of a RecordKind with two numbers. Does nothing once closed.

        Negative numbers are written as in two's complement.
        """
        cdef uint64_t first = a & 0xffffffffffffffff
        cdef uint64_t second = b & 0xffffffffffffffff
        if self.ring.header != NULL:
            record(&self.ring, kind, first, second)

    def intern(self, o):
        """Return the id of a code object, function, method, type or string, and keep the object."""
        if isinstance(o, MethodType):
            o = o.__func__
        if isinstance(o, FunctionType):
            o = o.__code__
        if not isinstance(o, (CodeType, type, str)):
            o = type(o)
        return self.intern_object(o)

    cdef uint64_t intern_object(self, object o) except? 0:
        cdef object address
        if isinstance(o, str):
            # Equal strings are one name, whichever object it is. A program may make names without
            # end: the memory is bounded.
            if o not in self.ids and len(self.names) >= MAX_NAMES:
                return 0
            o = self.ids.setdefault(o, o)
        address = <size_t><PyObject *>o
        if address not in self.ids:
            self.ids[address] = o
            self.names.append(o)
        self.ring.known[(<size_t><PyObject *>o >> 5) & (KNOWN_IDS - 1)] = <PyObject *>o
        return <size_t><PyObject *>o

    def names_after(self, Py_ssize_t n):
        """Return the interned names but for the first `n`, in the order in which they came.

        Each is (id, kind, qualified name, file, line); kind is "code", "type" or "string".
        """
        return [describe(o) for o in self.names[n:]]


def describe(o):
    """Return (id, kind, qualified name, file, line) of an interned object."""
    if isinstance(o, CodeType):
        return (id(o), "code", o.co_qualname, o.co_filename, o.co_firstlineno)
    if isinstance(o, type):
        name = o.__qualname__ if o.__module__ == "builtins" else f"{o.__module__}.{o.__qualname__}"
        return (id(o), "type", name, "", 0)
    return (id(o), "string", o, "", 0)


cdef uint64_t intern_slowly(Ring *ring, PyObject *o) noexcept:
    """Intern an object that is not in the table; return 0 if there is no memory for that."""
    try:
        return (<Recorder>ring.recorder).intern_object(<object>o)
    except MemoryError:
        return 0


cdef bint keep_beating() noexcept:
    """Whether the beat goes on, from now for a while; if it does not, start it."""
    cdef uint64_t one = 1
    beat.wanted_until = load_relaxed(&beat.count) + BEATS_WANTED
    if beat.running:
        return True
    if beat.wake_fd >= 0:
        c_write(beat.wake_fd, &one, sizeof(one))
    return False


cdef uint64_t read_begin(Ring *ring, uint64_t code) noexcept:
    """Return the time at which a handler begins, and decide how many after it may share it."""
    cdef uint64_t now = ring.now if ring.now_unused else ticks_of(ring)
    ring.now_unused = False
    if code != ring.run_code:
        ring.run_code = code
        ring.run_count = 0
        ring.run_size = 1
    elif now - ring.run_began > ring.short_ticks * <uint64_t>ring.run_size:
        ring.run_count = 0
        ring.run_size = 1
    elif ring.run_count < READINGS_BEFORE_SHARING:
        ring.run_count += 1
    else:
        ring.run_size = MAX_SHARED if keep_beating() else 1
    ring.run_began = ring.now = now
    ring.run_left = ring.run_size - 1
    ring.run_beat = load_relaxed(&beat.count)
    return now


cdef void write_clock(Ring *ring) noexcept:
    """Write a CLOCK record."""
    cdef Moment now
    ring.run_left = 0
    ring.now_unused = False
    read_clocks(&now)
    record_at(ring, now.counter - ring.base, RecordKind.CLOCK, <uint64_t>now.monotonic,
              <uint64_t>now.realtime)
    ring.next_clock = now.counter - ring.base + ring.clock_period


counts_cycles = has_steady_counter()
read_clocks(&imported)

cdef Functions functions
functions.identify_slowly = intern_slowly
functions.record_call = write_call
functions.read_begin = read_begin
functions.record_clock = write_clock
functions.record_caller = write_caller
functions.record_task = write_task
