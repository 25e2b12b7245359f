"""The kinds of records that Python code writes. events.pxd describes them; a test compares both."""

NOTHING = 0
RUN_END = 2
GC_BEGIN = 45
GC_END = 46
JOB_QUEUED = 42
JOB_BEGIN = 43
JOB_END = 44
EXCEPTION = 19
MARK = 58
