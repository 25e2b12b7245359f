"""What a ring holds: the records, the kinds of event, and the header in front of them.

This is the format of the shared memory that `noria top` maps, and of the records in a recording.
A record is three 64-bit words in the machine's byte order:

    stamp   ticks since the header's ticks_base << 8 | FIRST_OF_TURN or 0 | kind
    a, b    what the kind says

A *tick* is one count of the CPU's time stamp counter where that is constant (x86-64 with
constant_tsc and nonstop_tsc), else a nanosecond of CLOCK_MONOTONIC. CLOCK records relate ticks to
the clocks.

Handlers with equal stamps that follow each other share the time until the next record: for short
handlers with the same code the clock is read once for several of them.

Identifiers of code are addresses: of code objects, types and strings that the recorder holds a
reference to, so that an address never names two of them (`Recorder.names`). The address of a task
is reused once the task is freed: TASK_CREATED starts a new one.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef enum:
    RECORD_SIZE = 24
    HEADER_SIZE = 4096          # bytes before the first record: one page
    FORMAT_VERSION = 1
    KIND_MASK = 0x7f
    # Of a handler: the record also begins a turn of this event; as many timers as in the last turn.
    FIRST_OF_TURN = 0x80
    TAIL_SHIFT = 48             # of `a` in CALL, TIMER_CALL and STEP
    NO_FD = 0xffffffff
    # Handlers may share a reading of the clock if they take less than SHORT_NS on average;
    # only the last of them may take longer than BEAT_NS.
    SHORT_NS = 1000
    BEAT_NS = 2000000

cdef inline int64_t share_of(int64_t whole, int count) noexcept nogil:
    """How much of a time all but the last of some handlers have taken each, in ns."""
    return min(whole // count, <int64_t>SHORT_NS) if whole > BEAT_NS else whole // count

cdef struct Record:
    uint64_t stamp
    uint64_t a
    uint64_t b

# The first bytes of the shared memory. Readers in other processes map it read-only.
cdef struct RingHeader:
    char magic[8]               # "NORIAREC"
    uint32_t version
    uint32_t record_size
    uint64_t capacity           # records, a power of two
    uint64_t head               # records written so far; stored with release order after each one
    uint64_t ticks_base         # the counter when the recorder was made
    int64_t monotonic_base_ns   # CLOCK_MONOTONIC at ticks_base
    int64_t realtime_base_ns    # CLOCK_REALTIME at ticks_base
    double ns_per_tick          # an estimate; CLOCK records are exact
    uint64_t turn_started       # ticks (since the base) when this turn's handlers began; 0: waiting
    uint64_t turn_queue         # events that were queued when they began
    uint64_t turns              # turns so far
    int64_t pid
    int64_t thread_native_id    # of the thread that runs the loop; 0: it does not run
    uint64_t thread_ident       # threading.get_ident() of that thread
    char model[16]              # the model's name, zero-terminated

# `tail` is the number of events put into the queue so far, modulo 2**16, in `a` from bit 48 on.
# An event's own number is the number of events taken before it: so the handler that queued it, and
# how long it waited, follow without a record for each call_soon.
cpdef enum RecordKind:
    NOTHING = 0
    # The loop.
    RUN_BEGIN = 1       # a: native thread id; b: 1 if the queue was not empty
    RUN_END = 2
    TURN = 3            # handlers begin. a: events queued, and timers << 32; b: turn number
    WAIT = 4            # a wait that may sleep begins. a: timeout in ns, -1 without limit
    WOKE = 5            # it has ended. a: events that it queued
    POLL = 6            # a poll without waiting has ended. a: events that it queued
    WAKEUP = 7          # another thread or a signal woke the loop. a: native id of the thread
    # Handlers; each ends when the next record of this group, or TURN, WAIT, POLL or RUN_END,
    # begins.
    CALL = 8            # a callback. a: code, and tail << 48; b: the object it is bound to, or 0
    STEP = 9            # a task's step. a: code of the coroutine or 0, and tail << 48; b: the task
    IO = 10             # a channel. a: fd, EventKind << 32, tail << 48; b: protocol type or 0
    TIMER_CALL = 11     # as CALL, of a timer
    TIMER_STEP = 12     # as STEP, of a timer (asyncio.sleep sets a future's result: rare)
    # Tasks and timers.
    TASK_CREATED = 16   # a: code of the coroutine; b: the task
    TASK_NAMED = 17     # a: the name, an interned string; b: the task
    TIMER = 18          # a due timer is queued. a: when it was due, b: now; CLOCK_MONOTONIC in ns
    EXCEPTION = 19      # of a handler. a: type; b: code or task, or 0
    # Sockets; the system call has returned.
    RECEIVE = 24        # a: fd, and errno << 32; b: bytes (0 with errno 0: the end)
    SEND = 25           # a: fd, and errno << 32; b: bytes sent
    UNSENT = 26         # the kernel has not taken all. a: fd; b: bytes that noria keeps
    ACCEPT = 27         # a: listening fd, and errno << 32; b: new fd
    CONNECT = 28        # an outgoing connection is made, or failed. a: fd, and errno << 32
    # A channel of a connection begins. a: fd, and 1 << 32 for datagrams; b: protocol's type
    OPEN = 29
    CLOSE = 30          # and ends. a: fd, and errno << 32
    PAUSE_READING = 31  # a: fd
    RESUME_READING = 32
    PAUSE_WRITING = 33  # a: fd; b: bytes unsent
    RESUME_WRITING = 34
    END_OF_STREAM = 35  # the peer has closed its sending side. a: fd
    TLS = 36            # a: fd; b: 0 handshake begins, 1 done, 2 failed
    # Which line caused the OPEN or PAUSE_* of this fd just before: the innermost of the program's
    # own frames, else of those of installed packages. Not written where no such frame runs.
    CALLER = 37         # a: fd, and line << 32; b: code
    # Files, executors, the interpreter.
    FILE_BEGIN = 40     # a: number of the operation; b: FileOperation kind or opcode
    FILE_END = 41       # a: number; b: result (bytes, or -errno)
    JOB_QUEUED = 42     # run_in_executor. a: number; b: code
    JOB_BEGIN = 43      # a: number; b: code
    JOB_END = 44        # a: number; b: 1 if it raised
    GC_BEGIN = 45       # a: generation
    GC_END = 46         # a: objects collected; b: uncollectable
    # Figures.
    COUNTER = 56        # a: index in struct Counters (contract.pxd); b: its value, absolute
    CLOCK = 57          # a: CLOCK_MONOTONIC; b: CLOCK_REALTIME, in ns, at this stamp
    MARK = 58           # the program's own, noria.mark(name). a: interned string
