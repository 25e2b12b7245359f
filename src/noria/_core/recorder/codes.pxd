"""Figures for each piece of code, and jobs in flight."""

from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.stdlib cimport realloc
from libc.string cimport memset

from noria._core.recorder.state cimport MAX_CODES, MAX_JOBS, Code, Codes, Job, Jobs
from noria._core.recorder.tables cimport NOT_FOUND, table_delete, table_get, table_set

cdef inline bint count_call(Codes *codes, int kind, uint64_t id, int64_t duration) noexcept nogil:
    """Add a call; return False if there was no memory."""
    cdef uint64_t key = id << 3 | <uint64_t>kind
    cdef int32_t index = table_get(&codes.table, key)
    cdef Code *code
    cdef void *larger
    if index == NOT_FOUND:
        if codes.count == MAX_CODES:
            return True     # too many to keep apart
        if codes.count == codes.capacity:
            larger = realloc(codes.list, (codes.capacity * 2 + 64) * sizeof(Code))
            if larger == NULL:
                return False
            codes.list = <Code *>larger
            codes.capacity = codes.capacity * 2 + 64
        index = codes.count
        if not table_set(&codes.table, key, index):
            return False
        codes.count += 1
        memset(&codes.list[index], 0, sizeof(Code))
        codes.list[index].id = id
        codes.list[index].kind = kind
    code = &codes.list[index]
    code.calls += 1
    code.busy += duration
    if duration > code.longest:
        code.longest = duration
    return True

cdef inline Job *find_job(Jobs *jobs, uint64_t number) noexcept nogil:
    cdef int32_t index = table_get(&jobs.table, number)
    return NULL if index == NOT_FOUND else &jobs.list[index]

cdef inline Job *add_job(Jobs *jobs, uint64_t number) noexcept nogil:
    """Return a new job, or NULL if there are too many to keep or there is no memory."""
    cdef Job *job = find_job(jobs, number)
    cdef int32_t index
    cdef void *larger
    if job == NULL:
        if jobs.free >= 0:
            index = jobs.free
            jobs.free = jobs.list[index].next_free
        else:
            if jobs.used == MAX_JOBS:
                return NULL
            if jobs.used == jobs.capacity:
                larger = realloc(jobs.list, (jobs.capacity * 2 + 64) * sizeof(Job))
                if larger == NULL:
                    return NULL
                jobs.list = <Job *>larger
                jobs.capacity = jobs.capacity * 2 + 64
            index = jobs.used
            jobs.used += 1
        job = &jobs.list[index]
        if not table_set(&jobs.table, number, index):
            job.next_free = jobs.free
            jobs.free = index
            return NULL
    memset(job, 0, sizeof(Job))
    job.number = number
    return job

cdef inline void remove_job(Jobs *jobs, Job *job) noexcept nogil:
    table_delete(&jobs.table, job.number)
    job.next_free = jobs.free
    jobs.free = <int32_t>(job - jobs.list)
