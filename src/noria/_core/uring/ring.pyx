"""What a ring does once: set-up and close. The rest is inline in ring.pxd."""

from cpython.exc cimport PyErr_CheckSignals
from libc.string cimport memset

from noria._core.sys cimport EAGAIN, EBUSY, EINTR, ETIME, c_close, c_fcntl, c_syscall, errno
from noria._core.uring.abi cimport *

import os

cdef enum:
    F_SETFD = 2
    FD_CLOEXEC = 1


cdef int ring_setup(Ring *ring, unsigned entries, unsigned completions, unsigned flags) except -1:
    """Make a ring and map its queues. If this raises OSError, `ring_close` frees what there is."""
    cdef noria_params params
    memset(&params, 0, sizeof(noria_params))
    params.cq_entries = completions
    params.flags = SETUP_CQSIZE | SETUP_SUBMIT_ALL | SETUP_TASKRUN_FLAG | flags
    ring.sq_tail = ring.to_submit = 0
    ring.fd = <int>c_syscall(SYS_SETUP, entries, &params)
    if ring.fd < 0:
        raise OSError(errno, os.strerror(errno), "io_uring_setup")
    c_fcntl(ring.fd, F_SETFD, FD_CLOEXEC)
    if map_queues(&ring.queues, ring.fd, &params) < 0:
        raise OSError(errno, os.strerror(errno), "io_uring mmap")
    return 0


cdef void ring_close(Ring *ring) noexcept:
    ring_close_in_child(ring)
    unmap_queues(&ring.queues)


cdef void ring_close_in_child(Ring *ring) noexcept:
    """Close the descriptor alone: after a fork the queues' memory is shared with the parent."""
    if ring.fd >= 0:
        c_close(ring.fd)
        ring.fd = -1


cdef int ring_check_enter_error(int error) except -1:
    if error == EINTR:
        PyErr_CheckSignals()
    elif error != ETIME and error != EAGAIN and error != EBUSY:
        raise OSError(error, os.strerror(error), "io_uring_enter")
    return 0
