"""One io_uring(7) instance: set-up, submission entries, completions, io_uring_enter(2), close.

A user embeds the struct `Ring` and sets its `fd` to -1. What runs for each request or completion is
inline here, so that no such call leaves the user's module; the rest is in ring.pyx.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from noria._core.sys cimport c_syscall, errno
from noria._core.uring.abi cimport *

cdef struct Ring:
    int fd                  # -1 while there is no ring
    noria_queues queues
    uint32_t sq_tail        # where the next entry goes; the kernel sees it from ring_enter on
    uint32_t to_submit      # entries that the kernel has not taken yet

cdef int ring_setup(Ring *ring, unsigned entries, unsigned completions, unsigned flags) except -1
cdef void ring_close(Ring *ring) noexcept
cdef void ring_close_in_child(Ring *ring) noexcept
cdef int ring_check_enter_error(int error) except -1


cdef inline int ring_register(Ring *ring, unsigned opcode, void *argument, unsigned n) noexcept:
    """io_uring_register(2); returns 0 or -errno."""
    return -errno if c_syscall(SYS_REGISTER, ring.fd, opcode, argument, n) < 0 else 0


cdef inline uint32_t ring_sq_used(Ring *ring) noexcept:
    """The number of submission entries that the kernel has not taken yet."""
    return ring.sq_tail - load32(ring.queues.sq_head)


cdef inline noria_sqe *ring_next_sqe(Ring *ring, int opcode, int fd) noexcept:
    """The next submission entry, all other fields zero. The caller has made sure of room."""
    cdef noria_sqe *sqe = &ring.queues.sqes[ring.sq_tail & ring.queues.sq_mask]
    memset(sqe, 0, sizeof(noria_sqe))
    sqe.opcode = opcode
    sqe.fd = fd
    ring.sq_tail += 1
    ring.to_submit += 1
    return sqe


cdef inline bint ring_has_completions(Ring *ring) noexcept:
    return load32(ring.queues.cq_tail) != ring.queues.cq_head[0]


cdef inline bint ring_needs_enter(Ring *ring) noexcept:
    """Whether the kernel has completions that it puts into the queue only in io_uring_enter(2)."""
    return (load32(ring.queues.sq_flags) & (SQ_TASKRUN | SQ_CQ_OVERFLOW)) != 0


cdef inline int ring_enter(Ring *ring, unsigned min_complete, noria_timespec *timeout,
                           bint release_gil) except -1:
    """io_uring_enter(2): submit all entries, and wait for `min_complete` completions.

    Returns early on a signal, at the timeout (NULL: none), and while the kernel is short of memory
    or the completion queue is full (EAGAIN, EBUSY). Raises OSError for other errors, and what a
    signal handler raises.
    """
    cdef noria_getevents_arg argument
    cdef int result, error
    cdef unsigned flags = ENTER_GETEVENTS | ENTER_EXT_ARG
    store32(ring.queues.sq_tail, ring.sq_tail)
    memset(&argument, 0, sizeof(argument))
    argument.ts = <uint64_t>timeout
    if release_gil:
        with nogil:
            result = <int>c_syscall(SYS_ENTER, ring.fd, ring.to_submit, min_complete, flags,
                                    &argument, sizeof(argument))
            error = errno
    else:
        result = <int>c_syscall(SYS_ENTER, ring.fd, ring.to_submit, min_complete, flags,
                                &argument, sizeof(argument))
        error = errno
    # The kernel's head counts what it took, also when the wait was cut short.
    ring.to_submit = ring_sq_used(ring)
    if result < 0:
        ring_check_enter_error(error)
    return 0
