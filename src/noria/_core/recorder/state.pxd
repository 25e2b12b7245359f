"""What the analysis of one loop keeps, as C structs."""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from noria._core.recorder.clock cimport Clock
from noria._core.recorder.histogram cimport Histogram
from noria._core.recorder.tables cimport Table

cdef enum:
    MAX_GROUP = 256         # handlers that share their time
    MAX_SLOW = 100
    MAX_LONG_TURNS = 1000
    MAX_EXCEPTIONS = 256
    MAX_FD = 1 << 20
    MAX_BATCHES = 1 << 20
    MAX_CODES = 1 << 16
    MAX_JOBS = 1 << 16
    COUNTERS = 14           # fields of struct Counters

cdef enum CodeKind:
    CODE_CALLBACK = 0
    CODE_TASK = 1
    CODE_PROTOCOL = 2
    CODE_TIMER = 3
    CODE_JOB = 4

cdef enum Activity:
    OUTSIDE = 0             # the loop does not run
    BUSY = 1
    WAITING = 2

cdef struct Code:
    uint64_t id
    int64_t busy
    int64_t longest
    uint64_t calls
    int kind

cdef struct Codes:
    Table table             # id << 3 | kind -> index
    Code *list
    int32_t count
    int32_t capacity

cdef struct Task:
    uint64_t id
    uint64_t code
    uint64_t name
    int64_t created
    int64_t replaced        # when another task was created at this address
    int64_t busy
    int64_t scheduled
    int64_t longest
    int64_t last_step
    uint64_t steps
    uint64_t self_wakes

cdef struct Caller:
    uint64_t code
    uint32_t line

cdef struct Connection:
    int fd
    int tls
    int error               # errno that has ended it, or 0
    int64_t opened
    int64_t closed
    uint64_t protocol
    uint64_t bytes_in
    uint64_t bytes_out
    uint64_t receives
    uint64_t sends
    uint64_t blocked_sends
    int64_t last_received
    int64_t last_sent
    int64_t unsent
    int64_t most_unsent
    int64_t reading_paused
    int64_t writing_paused
    int64_t longest_reading_pause
    int64_t longest_writing_pause
    int64_t written_while_paused
    uint64_t user           # code of the task that its handler wakes
    Caller opened_at
    Caller paused_at
    Caller written_at
    int caused              # the kind of the record that a CALLER would be about
    int sender_kind
    uint64_t sender
    int64_t sender_votes
    uint64_t repeated_sends
    uint64_t last_send      # number of the handler that has sent last
    bint begun              # OPEN was there
    bint datagrams          # not a stream
    bint ended              # the peer has closed its side

cdef struct Job:
    uint64_t number
    uint64_t code
    int64_t queued
    int64_t begun
    int32_t next_free

cdef struct Jobs:
    Table table             # number -> index
    Job *list
    int32_t used
    int32_t capacity
    int32_t free            # a list through next_free; -1: none

cdef struct Handler:
    int kind                # CodeKind
    int fd                  # -1: none
    uint64_t code
    uint64_t task           # its address; 0: none
    int64_t start
    int64_t waiting         # events in the queue
    int32_t task_index

cdef struct Batch:          # events that were queued at one time
    uint64_t count
    int64_t time            # 0: unknown
    int64_t due             # of a timer; 0: none
    uint64_t task           # the task whose step queued them, or 0
    int fd                  # the connection whose handler queued them, or -1
    uint64_t handler        # number of the handler that queued them; 0: none has

cdef struct Flow:           # a handler that was queued by another one; both by their numbers
    uint64_t origin
    uint64_t handler
    int64_t delay           # between the end of the first and the begin of the second, in ns

cdef struct LongTurn:
    int64_t start
    int64_t end
    int64_t delay           # queue delay of events while it lasted
    uint64_t waited         # number of such events
    uint64_t handlers
    Handler longest

cdef struct Slow:
    Handler handler
    int64_t duration

cdef struct Exceptions:
    uint64_t type
    uint64_t code
    uint64_t count
    int64_t last

cdef struct Sample:
    int64_t begin
    int64_t busy
    int64_t longest_turn
    int64_t longest_delay
    int64_t gc
    uint64_t turns
    uint64_t events
    uint64_t steps
    uint64_t calls
    uint64_t bytes_in
    uint64_t bytes_out

cdef struct State:
    Clock clock
    bint failed             # memory was exhausted
    # Settings.
    int64_t max_block
    int32_t max_tasks
    int32_t max_connections
    bint keep_latest        # of the samples; else they are merged
    # Totals.
    int64_t begin
    int64_t now
    int64_t realtime_offset
    int64_t accounted       # busy and waiting are known until then
    Activity activity
    bint seen_activity      # a record has said what it is
    int64_t busy
    int64_t waiting
    uint64_t records
    uint64_t turns
    uint64_t waits
    uint64_t polls
    uint64_t empty_polls
    uint64_t events
    uint64_t steps
    uint64_t io
    uint64_t wakeups
    uint64_t thread
    Histogram turn
    Histogram queue_delay
    Histogram handler
    uint64_t first_counters[COUNTERS]
    uint64_t counters[COUNTERS]
    bint counted[COUNTERS]
    # The turn and its handlers.
    bint in_turn
    int64_t turn_start
    int64_t turn_delay
    uint64_t turn_waited
    uint64_t turn_first     # number of handlers before it
    Handler turn_longest
    int64_t turn_longest_duration
    Handler group[MAX_GROUP]
    int group_count
    uint64_t group_ticks    # when they began
    int group_turns         # turns that began with the group's second or a later handler
    Handler last_handler
    int64_t handler_end
    uint64_t handler_number     # of the last handler; the first is 1
    Flow *flows             # those with the longest delays: a heap, the shortest on top
    int32_t flow_count
    int32_t flow_limit
    LongTurn long_turns[MAX_LONG_TURNS]
    int long_count
    uint64_t long_lost      # long turns that were forgotten
    Slow slow[MAX_SLOW]
    int slow_count
    int slow_least          # index of the shortest
    # The queue of events.
    Batch *batches          # a ring
    size_t batch_mask
    size_t batch_head
    size_t batch_count
    uint64_t front          # number of the first event of the first batch
    uint64_t tail
    uint64_t taken
    bint tail_known
    bint taken_known
    bint turn_begun         # the next handler is the turn's first
    uint64_t turn_queue
    uint64_t known          # events queued since the last handler, of which the records say so
    int64_t outside_until   # other threads queued the rest, at the latest then; 0: the handler
    # Tables.
    Codes codes
    Codes job_codes
    Codes gc_codes
    Table task_table
    Task *tasks
    int32_t task_count
    int32_t task_hand
    uint64_t tasks_created
    Connection *connections
    int32_t connection_count
    int32_t connection_hand
    int32_t *fds            # index of the open connection + 1
    size_t fd_count
    uint64_t connections_opened
    int64_t connections_open
    # Timers, files, executors, collections, exceptions.
    uint64_t timers_pending
    uint64_t timers_fired
    Histogram lateness
    Jobs files
    uint64_t files_begun
    uint64_t files_failed
    int64_t files_open
    Histogram file_duration
    Jobs jobs
    uint64_t jobs_submitted
    uint64_t jobs_finished
    int64_t jobs_queued
    int64_t jobs_running
    Histogram job_waiting
    Histogram job_duration
    int64_t gc_begin
    uint64_t gc_generation
    uint64_t collections[3]
    uint64_t collected
    Histogram gc_pauses
    Exceptions exceptions[MAX_EXCEPTIONS]
    int exception_count
    # Samples.
    Sample sample           # the current one
    int64_t sample_width
    int64_t sample_end
    Sample *samples         # a ring
    int max_samples
    int sample_head
    int sample_count
