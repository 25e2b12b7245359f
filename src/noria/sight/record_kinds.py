"""The kinds of records that Python code uses. events.pxd describes them; a test compares both."""

NOTHING = 0
RUN_BEGIN = 1
RUN_END = 2
TURN = 3
WAIT = 4
WOKE = 5
POLL = 6
CALL = 8
STEP = 9
IO = 10
TIMER_CALL = 11
TIMER_STEP = 12
GC_BEGIN = 45
GC_END = 46
JOB_QUEUED = 42
JOB_BEGIN = 43
JOB_END = 44
EXCEPTION = 19
CLOCK = 57
MARK = 58

KIND_MASK = 0x7F  # of a record's first word
HANDLERS = (CALL, STEP, IO, TIMER_CALL, TIMER_STEP)
