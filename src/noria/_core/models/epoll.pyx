"""epoll(7): the kernel keeps the set of watched descriptors, and reports those that are ready.

What shaped this file:

- A registration belongs to the *open file description*, not to the descriptor: if a duplicate (dup,
  fork) keeps the file open, the registration outlives the descriptor and still causes events. So
  each event carries the generation of its entry in the table, and an event of another generation is
  dropped. As epoll_ctl(2) cannot reach that registration, the valid ones move to a new epoll
  instance.
- Edge-triggered, a channel is registered once for reading and writing and never modified, so a send
  that blocks costs no epoll_ctl. The price: a channel must be read until EAGAIN.
- Closing the last descriptor of a file ends its registration, and epoll does not report it. So the
  end of a connection costs no EPOLL_CTL_DEL, unless the process has called fork(2).
  EPOLL_CTL_MOD then fails with EBADF, or with ENOENT if the number belongs to another file by now:
  what users registered for the former file is dropped, so that they get no events of the new one.
- The timeout of epoll_wait is in milliseconds, that of epoll_pwait2 (Linux 5.11) in nanoseconds.
"""

from cpython.exc cimport PyErr_CheckSignals
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t

from noria._core.contract cimport (
    ACCEPT, READABLE, READY, RECEIVE, Channel, Queue, queue_put,
)
from noria._core.models.readiness cimport (
    HANGUP, IN, OUT, PLAIN, PRIORITY, Readiness, io_bits, plain_interests,
)
from noria._core.sys cimport (
    EBADF, EEXIST, EINTR, ENOENT, ENOSYS, EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL,
    EPOLL_CTL_MOD, EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLPRI, EPOLLRDHUP, O_CLOEXEC,
    SYS_EPOLL_PWAIT2, c_close, c_dup3, c_epoll_ctl, c_syscall, epoll_create1, epoll_event,
    epoll_pwait, errno, monotonic_ns, timespec,
)

import os

cdef enum:
    MILLISECOND = 1000000

# Whether to use epoll_pwait2; false once it has returned ENOSYS.
cdef bint precise = True

# Whether the process has called fork(2): a child may hold duplicates of all descriptors.
cdef bint forked = False


def note_fork():
    """From now on, end each registration before its descriptor is closed."""
    global forked
    forked = True


os.register_at_fork(before=note_fork)


cdef class Epoll(Readiness):
    """epoll, level-triggered, or with `edge` edge-triggered."""

    def __cinit__(self, bint edge=False):
        self.name = "epoll-edge" if edge else "epoll"
        self.edge_triggered = edge
        self.close_unwatches = True
        self.epfd = epoll_create1(EPOLL_CLOEXEC)
        self.initialized = True
        if self.epfd < 0:
            raise OSError(errno, os.strerror(errno), "epoll_create1")

    def __dealloc__(self):
        # If a base class's __cinit__ raised, all fields are zero: `epfd` would be descriptor 0.
        if self.initialized and self.epfd >= 0:
            c_close(self.epfd)

    cdef int tear_down(self) except -1:
        Readiness.tear_down(self)
        if self.epfd >= 0:
            c_close(self.epfd)
        self.epfd = -1
        return 0

    cdef int after_fork_in_child(self) except -1:
        # Registrations are shared with the parent: the child must not change them.
        c_close(self.epfd)
        self.epfd = -1
        return Readiness.after_fork_in_child(self)

    def fileno(self):
        """The epoll descriptor, -1 once closed."""
        return self.epfd

    cdef int update(self, Channel channel, int old, int new) except -1:
        cdef epoll_event event
        if self.edge_triggered and not channel.level_triggered:
            return self.update_edge(channel, old, new)
        event.events = (EPOLLIN if new & IN else 0) | (EPOLLOUT if new & OUT else 0) \
            | (EPOLLPRI if new & PRIORITY else 0)
        return self.control(channel, old, new, &event)

    cdef int update_edge(self, Channel channel, int old, int new) except -1:
        cdef epoll_event event
        if channel.watched & PLAIN:
            # A user's descriptor: registered for exactly these events. A change reports readiness
            # that exists already.
            event.events = (EPOLLET | (EPOLLIN | EPOLLRDHUP if new & IN else 0)
                            | (EPOLLOUT if new & OUT else 0) | (EPOLLPRI if new & PRIORITY else 0))
            return self.control(channel, old, new, &event)
        event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET
        if channel.watched & ACCEPT:
            event.events = EPOLLIN | EPOLLET
        if new == 0 or old == 0:
            return self.control(channel, old, new, &event)
        if new & ~old & IN:
            # The edge may have come while the channel was not watched: try to receive once.
            self.queue_ready(channel, IN | HANGUP)
        # OUT is watched after a send returned EAGAIN, so its edge is still to come.
        return 0

    cdef int control(self, Channel channel, int old, int new, epoll_event *event) except -1:
        cdef int op = EPOLL_CTL_DEL if new == 0 else EPOLL_CTL_ADD if old == 0 else EPOLL_CTL_MOD
        cdef int fd = channel.fd, r
        if self.inherited:
            return 0        # the registration is the parent's
        event.data.u64 = (<uint64_t>self.registrations[fd].generation << 32) | <uint32_t>fd
        self.counters.controls += 1
        r = c_epoll_ctl(self.epfd, op, fd, event)
        if r < 0 and op == EPOLL_CTL_ADD and errno == EEXIST:
            r = c_epoll_ctl(self.epfd, EPOLL_CTL_MOD, fd, event)
        elif r < 0 and op == EPOLL_CTL_MOD and (errno == ENOENT or errno == EBADF):
            r = self.register_again(channel, old, new, event)
        # EPOLL_CTL_DEL fails only if the descriptor is closed already.
        if r < 0 and op != EPOLL_CTL_DEL:
            raise OSError(errno, os.strerror(errno), f"descriptor {fd}")
        return 0

    cdef int unwatch_before_release(self, Channel channel) except -1:
        # close(2) will end the registration. Until then no event is queued, as nothing is watched.
        channel.watched = 0
        return 0

    cdef int release(self, Channel channel) except -1:
        cdef int fd = channel.fd
        if (not channel.watched and 0 <= fd < self.table_size
                and self.registrations[fd].channel == <PyObject *>channel):
            if forked:
                self.update(channel, IN, 0)
            self.deregister_channel(channel)
        return Readiness.release(self, channel)

    cdef int register_again(self, Channel channel, int old, int new,
                            epoll_event *event) noexcept:
        """Register again after the registered file was closed; return 0, or -1 with errno set."""
        cdef int fd = channel.fd
        if channel.watched & PLAIN:
            channel.watched &= plain_interests(new & ~old)
            event.events &= ~(EPOLLIN | EPOLLRDHUP if old & IN else 0)
            event.events &= ~(EPOLLOUT if old & OUT else 0)
            event.events &= ~(EPOLLPRI if old & PRIORITY else 0)
        if not new & ~old and (errno == EBADF or not channel.watched):
            return 0    # the change only removed events, and none are left
        # If a duplicate keeps the former file open, its events no longer belong to this channel.
        self.registrations[fd].generation += 1
        event.data.u64 = (<uint64_t>self.registrations[fd].generation << 32) | <uint32_t>fd
        return c_epoll_ctl(self.epfd, EPOLL_CTL_ADD, fd, event)

    cdef int wait(self, int64_t timeout) except -1:
        cdef int n, i, io, fd, mask
        cdef uint32_t flags
        cdef int64_t before, after
        cdef bint stale = False
        cdef epoll_event *event
        cdef Queue queue = self.queue
        cdef Channel channel
        self.counters.waits += 1
        if timeout == 0:
            n = epoll_pwait(self.epfd, self.events, EVENTS, 0, NULL)
            if self.recording:
                self.timestamps.requested = self.timestamps.ready = monotonic_ns()
        else:
            before = monotonic_ns()
            with nogil:
                n = wait_ns(self.epfd, self.events, timeout)
            after = monotonic_ns()
            self.counters.waiting_ns += after - before
            self.timestamps.requested, self.timestamps.ready = before, after
        if n <= 0:
            self.counters.empty_waits += 1
            if n < 0:
                if errno != EINTR:
                    raise OSError(errno, os.strerror(errno), "epoll_wait")
                PyErr_CheckSignals()
            return 0
        for i in range(n):
            event = &self.events[i]
            # A cast to the lower half; `& 0xffffffff` would compute with Python integers.
            fd = <int><uint32_t>event.data.u64
            if (self.registrations[fd].channel == NULL
                    or self.registrations[fd].generation != <uint32_t>(event.data.u64 >> 32)):
                stale = True
                continue
            flags = event.events
            if flags == EPOLLIN:
                channel = <Channel>self.registrations[fd].channel
                mask = channel.watched & (ACCEPT | RECEIVE | READABLE)
                if mask:
                    queue_put(queue, channel, READY, mask, NULL)
                continue
            io = 0
            if flags & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR):
                io = IN
            if flags & (EPOLLOUT | EPOLLHUP | EPOLLERR):
                io |= OUT
            if flags & EPOLLPRI:
                io |= PRIORITY
            if flags & (EPOLLRDHUP | EPOLLHUP | EPOLLERR):
                io |= HANGUP
            self.queue_ready(<Channel>self.registrations[fd].channel, io)
        if stale:
            self.renew()
        return 0

    cdef int renew(self) except -1:
        """Move the registrations to a new epoll instance, with the number of the former one.

        An event came from a registration that has outlived its channel: the descriptor was closed,
        and a duplicate keeps the file open. Level-triggered, it would come again in each wait.
        """
        cdef int fd
        cdef Channel channel
        cdef epoll_event event
        cdef int made = epoll_create1(EPOLL_CLOEXEC)
        if made < 0:
            return 0            # no descriptor is free; the next wait retries
        for fd in range(self.table_size):
            if self.registrations[fd].channel == NULL:
                continue
            # EPOLL_CTL_MOD on the former instance shows whether the descriptor still refers to the
            # registered file; if not, its owner has closed it.
            event.events = 0
            event.data.u64 = 0
            if c_epoll_ctl(self.epfd, EPOLL_CTL_MOD, fd, &event) < 0:
                channel = <Channel>self.registrations[fd].channel
                channel.watched = 0
                self.deregister_channel(channel)
        c_dup3(made, self.epfd, O_CLOEXEC)
        c_close(made)
        for fd in range(self.table_size):
            if self.registrations[fd].channel == NULL:
                continue
            channel = <Channel>self.registrations[fd].channel
            try:
                self.update(channel, 0, io_bits(channel.watched))
            except OSError:
                pass            # closed by its owner
        return 0


cdef int wait_ns(int epfd, epoll_event *events, int64_t timeout) noexcept nogil:
    global precise
    cdef timespec limit
    cdef int n
    if timeout < 0:
        return epoll_pwait(epfd, events, EVENTS, -1, NULL)
    if precise:
        limit.tv_sec = timeout // 1000000000
        limit.tv_nsec = timeout % 1000000000
        n = <int>c_syscall(SYS_EPOLL_PWAIT2, epfd, events, <int>EVENTS, &limit, NULL, <size_t>8)
        if n >= 0 or errno != ENOSYS:
            return n
        precise = False
    timeout = (timeout + MILLISECOND - 1) // MILLISECOND
    return epoll_pwait(epfd, events, EVENTS, <int>min(timeout, <int64_t>0x7fffffff), NULL)
