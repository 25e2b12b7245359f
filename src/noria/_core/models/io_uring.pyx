"""io_uring(7): requests go into one ring, completions come out of another.

What shaped this file:

- A request holds a reference to its target until the kernel's last completion, and that target
  its descriptor: a number can so never be used again while a request of its former life is under
  way. Closing cancels first, and closes when the last completion has come.
- The ring belongs to one thread (SINGLE_ISSUER) and the kernel completes only when that thread asks
  (DEFER_TASKRUN, Linux 6.1). It is made disabled, and enabled by the thread that runs the loop.
- A loop may run in one thread after another. So requests are made only while it runs: the end of a
  run cancels them all, `deferred` remembers what to arm at the next one, and a run in another
  thread begins with a new ring. Between runs any thread may close the loop.
- Receiving is multishot: one request gives a completion for each arrival, its bytes in a buffer of
  the provided ring. ENOBUFS ends such a request and is no error of the connection: it is made anew
  once the handlers have emptied the buffers.
- A connection with large messages is only polled by the ring, and received from when its handler's
  turn has come, straight into the object that the handler will get: no copy in the process, and the
  memory is what the handler before has just let go of. Where the kernel puts it for many
  connections beforehand, all of it has left the cache by then: a tenth to a quarter slower.
- Buffers go round; few of them stay in the cache. So four are given out at first, and one more each
  time that the kernel runs short.
- A cancel races with data: bytes may come after a pause, and the stream holds them.
- A send that is alone is a send(2), at once. Those that many channels make in one turn go out with
  the call that waits for what comes next (send_later): they never wait for room (MSG_DONTWAIT), so
  they have all ended when that call has handed them over. When there is no room, a one-shot poll
  tells of it.
- A poll request holds a reference to its file: a socket that its user closes while the ring polls
  it stays open, and its peer sees no end. So descriptors that users watch for readiness are
  registered with an epoll instance (which holds no references, is level-triggered, and refuses
  closed descriptors and regular files), and the ring polls the descriptor of that instance. The
  poll is one-shot, and armed again in the first wait after all handlers of its events have run.
  Its cost is one epoll_wait(2) in each turn in which such a descriptor is ready; streams pay none.
- Sockets must be in blocking mode: O_NONBLOCK makes requests end with EAGAIN.
"""

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from noria._core.contract cimport (
    ACCEPT, ACCEPTED, CONNECT, DONE, FSYNC, PREAD, READABLE, READY, RECEIVE, RECEIVED, SENT,
    SEND, Channel, Event, Operation, Queue, Target,
)
from noria._core.models.epoll cimport Epoll
from noria._core.models.readiness cimport PLAIN
from noria._core.models.wakeable cimport WakeableModel
from noria._core.uring.abi cimport *
from noria._core.sys cimport (
    EAGAIN, EBADF, EBUSY, ECANCELED, EINTR, EINVAL, ENOBUFS, ETIME, F_GETFL, F_SETFL, MSG_DONTWAIT,
    MSG_NOSIGNAL, O_NONBLOCK, POLLERR, POLLHUP, POLLIN, POLLOUT, SOCK_CLOEXEC, c_close,
    c_fcntl, c_syscall, errno, monotonic_ns,
)

import os

from noria._core.contract import SCRATCH_SIZE

cdef Py_ssize_t scratch_size = SCRATCH_SIZE

cdef extern from "Python.h":
    # The kernel's number of the thread: CPython's own (pthread_self) is used again at once for the
    # next thread, which is another task to the kernel.
    unsigned long PyThread_get_thread_native_id() noexcept

cdef enum:
    ENTRIES = 1024
    COMPLETIONS = 8192
    BUFFERS = 16                # a power of two
    BUFFER_SIZE = 256 * 1024
    FIRST_BUFFERS = 4           # given out at the start
    LARGE = 16 * 1024           # from here a message is worth a request of its own
    SMALL_BUFFERS = 512         # before Linux 6.12, when one arrival takes a whole buffer
    SMALL_SIZE = 8 * 1024
    MASK = 0xff                 # of an event's kind; above it:
    LAST = 0x100                # the buffer is empty after this: give it back
    FINAL = 0x200               # the request ends with this
    STRAIGHT = 0x400            # a large message is there to be received
    OWNED = 0x800               # the data is a copy, for PyMem_RawFree

    # Tags in the low bits of user_data, which are free in a pointer.
    TAG_NONE = 0
    TAG_RECEIVE = 1
    TAG_ACCEPT = 2
    TAG_POLL = 3
    TAG_OPERATION = 4
    TAG_DIRECT = 5
    TAG_SEND = 6
    TAG_EPOLL = 7
    TAGS = 7

    # States of a channel: which requests are under way, and which of these are being cancelled.
    RECEIVING = 1
    ACCEPTING = 2
    POLLING = 4
    SENDING = 128
    UNDER_WAY = 128 + 7
    DIRECT = 64                 # RECEIVING by a poll
    CANCELLING = 3              # a shift: RECEIVING << CANCELLING and so on
    CLOSING = 256               # counted in `closing_channels`
    QUEUED = 512                # received data is in the queue while a run ends
    IDLE_WAITS = 50             # of 20 ms, in which no cancelled request ended: it is given up

cdef class IoUring(WakeableModel):
    """One ring."""

    cdef int ring
    cdef bint initialized           # __cinit__ has run: `ring` is a descriptor or -1
    cdef unsigned long owner        # the thread whose ring it is, 0 before the first run
    cdef bint active                # requests may be made: the owner runs, or ran and did not end
    cdef bint broken                # a ring that was not set up completely: the next run makes one
    cdef bint ending                # all requests are being cancelled
    cdef list deferred              # channels and operations whose requests the next run makes
    cdef Py_ssize_t operations      # under way
    cdef noria_queues at
    cdef uint32_t tail, waiting
    cdef noria_buf *bufs
    cdef char *pool_memory
    cdef size_t pool_size
    cdef uint32_t buffers, buffer_size, given
    cdef uint16_t buffers_tail
    cdef uint32_t used[SMALL_BUFFERS]
    cdef bint incremental
    cdef Py_ssize_t under_way
    cdef unsigned sends             # requests that end as soon as they are handed over
    cdef Py_ssize_t closing_channels  # channels that are closed once their requests have ended
    cdef Queue closing_completions  # the completions of these
    cdef Epoll epoll                # has the users' own descriptors; made for the first of them
    cdef bint epoll_polled          # a poll of the epoll descriptor is under way
    cdef size_t epoll_events        # its events that are in the queue

    def __cinit__(self, bint incremental=True):
        self.name = "io_uring"
        self.polls_memory = True
        self.close_unwatches = True
        self.ring = -1
        self.initialized = True
        self.closing_completions = Queue()
        self.deferred = []
        self.set_up()
        self.incremental = incremental

    cdef int set_up(self) except -1:
        memset(&self.params, 0, sizeof(noria_params))
        self.params.cq_entries = COMPLETIONS
        self.params.flags = (SETUP_CQSIZE | SETUP_R_DISABLED | SETUP_SUBMIT_ALL | SETUP_TASKRUN_FLAG
                             | SETUP_SINGLE_ISSUER | SETUP_DEFER_TASKRUN)
        self.ring = <int>c_syscall(SYS_SETUP, <unsigned>ENTRIES, &self.params)
        if self.ring < 0:
            raise OSError(errno, os.strerror(errno), "io_uring_setup")
        c_fcntl(self.ring, 2, 1)    # F_SETFD, FD_CLOEXEC
        if map_queues(&self.at, self.ring, &self.params) < 0:
            raise OSError(errno, os.strerror(errno), "io_uring mmap")
        return 0

    cdef noria_params params

    def __dealloc__(self):
        # All fields are zero, the table of methods too, if a base class's __cinit__ raised.
        if self.initialized:
            self.unmap()

    cdef int unmap(self) noexcept:
        if self.ring >= 0:
            c_close(self.ring)
            self.ring = -1
        unmap_queues(&self.at)
        if self.pool_memory != NULL:
            munmap(self.pool_memory, self.pool_size)
            self.pool_memory = NULL
        return 0

    cdef int after_fork_in_child(self) except -1:
        # The rings are shared memory: nothing may be written there. The buffers stay until the end,
        # as a handler that forked may be looking at one.
        c_close(self.ring)
        self.ring = -1
        return WakeableModel.after_fork_in_child(self)

    def fileno(self):
        """The ring's descriptor, -1 once closed."""
        return self.ring

    cdef int start_run(self) except -1:
        cdef unsigned long me = PyThread_get_thread_native_id()
        WakeableModel.start_run(self)
        if self.owner != me:
            if self.active:
                raise RuntimeError("an io_uring loop belongs to the thread that ran it first until "
                                   "`run` returns there: run it there, or use the model 'epoll'")
            if self.owner or self.broken:
                self.renew()
            self.broken = True
            if c_syscall(SYS_REGISTER, self.ring, <unsigned>REGISTER_ENABLE_RINGS, NULL, 0) < 0:
                raise OSError(errno, os.strerror(errno), "io_uring enable")
            self.provide_buffers()
            self.broken = False
            self.owner = me
        self.active = True
        if self.deferred:
            self.arm_deferred()
        if not self.wake_reader.watched:
            self.watch(self.wake_reader, READABLE)
        return 0

    cdef int renew(self) except -1:
        """Replace the ring of another thread, which has no request under way, by a new one."""
        cdef Event *event
        cdef void *copy
        cdef size_t i
        # Data that waits in the queue lies in buffers that are about to go.
        for i in range(self.queue.count):
            event = &self.queue.ring[(self.queue.head + i) & self.queue.mask]
            if event.kind & MASK == RECEIVED and event.data != NULL and not event.kind & OWNED:
                if event.result > 0:
                    copy = PyMem_RawMalloc(event.result)
                    if copy == NULL:
                        raise MemoryError
                    memcpy(copy, event.data, event.result)
                    event.data = copy
                    event.kind |= OWNED
                else:
                    event.data = NULL
                event.kind &= ~LAST
        self.owner = 0
        self.broken = True
        self.unmap()
        self.tail = self.waiting = 0
        self.buffers_tail = 0
        self.set_up()
        return 0

    cdef int arm_deferred(self) except -1:
        cdef Operation operation
        cdef Channel channel
        while self.deferred:
            target = self.deferred[len(self.deferred) - 1]
            if isinstance(target, Operation):
                operation = <Operation>target
                self.start(operation)
                if operation.cancelled:
                    self.cancel_request(operation, TAG_OPERATION)
            else:
                channel = <Channel>target
                if channel.watched and not channel.releasing:
                    self.arm(channel)
            self.deferred.pop()
        return 0

    cdef int end_run(self) except -1:
        """Cancel all requests and wait until the kernel has ended them, so that any thread may run
        or close the loop next. What arrived meanwhile is in the queue."""
        cdef Event *event
        cdef size_t i
        if not self.active or self.inherited or self.closed \
                or self.owner != PyThread_get_thread_native_id():
            return 0
        if self.operations:
            return 0        # their results are wanted: the ring stays this thread's
        for i in range(self.queue.count):
            event = &self.queue.ring[(self.queue.head + i) & self.queue.mask]
            if event.kind & MASK == RECEIVED:
                (<Channel>event.target).state |= QUEUED
        self.ending = True
        try:
            self.cancel_all()
        finally:
            self.ending = False
        self.active = self.under_way != 0 or self.epoll_polled
        return 0

    cdef int cancel_all(self) except -1:
        """Cancel all requests; wait until they have ended, or until none ends for a second."""
        cdef noria_sqe *sqe
        cdef noria_timespec limit
        cdef int idle_waits = 0
        while self.under_way or self.epoll_polled or self.waiting:
            if self.under_way or self.epoll_polled:
                sqe = self.request(None, TAG_NONE, OP_ASYNC_CANCEL, -1)
                sqe.op_flags = CANCEL_ANY | CANCEL_ALL
            self.enter(0, NULL)
            self.reap()
            # The kernel completes some twenty requests a call.
            while self.under_way or self.epoll_polled:
                limit.tv_sec, limit.tv_nsec = 0, 20000000
                self.enter(1, &limit)
                if self.reap() == 0:
                    idle_waits += 1
                    break
            if idle_waits == IDLE_WAITS:
                break
        return 0

    cdef int provide_buffers(self) except -1:
        cdef noria_buf_reg registration
        cdef uint32_t i
        cdef size_t ring_size
        cdef int flags = MAP_PRIVATE | MAP_ANONYMOUS
        while True:
            self.buffers = BUFFERS if self.incremental else SMALL_BUFFERS
            self.buffer_size = BUFFER_SIZE if self.incremental else SMALL_SIZE
            ring_size = self.buffers * sizeof(noria_buf)
            ring_size = (ring_size + 4095) & ~<size_t>4095
            self.pool_size = ring_size + <size_t>self.buffers * self.buffer_size
            self.pool_memory = <char *>mmap(NULL, self.pool_size, PROT_READ | PROT_WRITE, flags, -1,
                                            0)
            if self.pool_memory == <char *>MAP_FAILED:
                self.pool_memory = NULL
                raise MemoryError("no memory for the buffers of io_uring")
            memset(&registration, 0, sizeof(registration))
            registration.ring_addr = <uint64_t>self.pool_memory
            registration.ring_entries = self.buffers
            registration.flags = PBUF_RING_INC if self.incremental else 0
            if c_syscall(SYS_REGISTER, self.ring, <unsigned>REGISTER_PBUF_RING, &registration,
                         1) == 0:
                break
            munmap(self.pool_memory, self.pool_size)
            self.pool_memory = NULL
            if not self.incremental or errno != EINVAL:
                raise OSError(errno, os.strerror(errno), "io_uring buffer ring")
            self.incremental = False    # Linux before 6.12
        self.bufs = <noria_buf *>self.pool_memory
        self.pool_memory_data = self.pool_memory + ring_size
        self.given = FIRST_BUFFERS if self.incremental else self.buffers
        for i in range(self.given):
            self.give_back(i)
        return 0

    cdef char *pool_memory_data

    @cython.final
    cdef void give_back(self, uint32_t buffer) noexcept:
        """The kernel may fill this buffer again."""
        cdef noria_buf *entry = &self.bufs[self.buffers_tail & (self.buffers - 1)]
        self.used[buffer] = 0
        entry.addr = <uint64_t>(self.pool_memory_data + <size_t>buffer * self.buffer_size)
        entry.len = self.buffer_size
        entry.bid = <uint16_t>buffer
        self.buffers_tail += 1
        store16(&self.bufs[0].tail, self.buffers_tail)

    # Requests.

    cdef noria_sqe *request(self, Target target, int tag, int opcode, int fd) except NULL:
        """The next free entry; holds a reference to the target until the last completion."""
        cdef noria_sqe *sqe
        if self.inherited:
            self.raise_inherited()
        if self.tail - load32(self.at.sq_head) == self.at.sq_size:
            self.enter(0, NULL)
        sqe = &self.at.sqes[self.tail & self.at.sq_mask]
        memset(sqe, 0, sizeof(noria_sqe))
        sqe.opcode = opcode
        sqe.fd = fd
        self.tail += 1
        self.waiting += 1
        if tag != TAG_NONE:
            Py_INCREF(target)
            self.under_way += 1
            sqe.user_data = <uint64_t><PyObject *>target | tag
        return sqe

    cdef int cancel_request(self, Target target, int tag) except -1:
        cdef noria_sqe *sqe
        if tag == TAG_POLL:
            sqe = self.request(None, TAG_NONE, OP_POLL_REMOVE, -1)
        else:
            sqe = self.request(None, TAG_NONE, OP_ASYNC_CANCEL, -1)
        sqe.addr = <uint64_t><PyObject *>target | tag
        return 0

    cdef int arm(self, Channel channel) except -1:
        """Makes the requests that the channel's watched bits want and that are not under way."""
        cdef noria_sqe *sqe
        cdef int mask
        if self.inherited:
            return 0
        if not self.active:
            self.deferred.append(channel)
            return 0
        if channel.watched & RECEIVE and not channel.datagrams and not channel.state & RECEIVING:
            self.arm_receive(channel)
        if channel.watched & ACCEPT and not channel.state & ACCEPTING:
            sqe = self.request(channel, TAG_ACCEPT, OP_ACCEPT, channel.fd)
            sqe.ioprio = ACCEPT_MULTISHOT
            sqe.op_flags = SOCK_CLOEXEC
            channel.state |= ACCEPTING
        mask = poll_mask(channel)
        if mask and not channel.state & POLLING:
            sqe = self.request(channel, TAG_POLL, OP_POLL_ADD, channel.fd)
            sqe.op_flags = mask
            channel.state |= POLLING
            channel.slot = mask
        elif mask != channel.slot:
            # Ends the poll; its last completion makes a new one for what is watched then.
            self.cancel_once(channel, POLLING, TAG_POLL)
        return 0

    cdef int arm_receive(self, Channel channel) except -1:
        cdef noria_sqe *sqe
        channel.state |= RECEIVING
        if channel.expects_large():
            channel.state |= DIRECT
            sqe = self.request(channel, TAG_DIRECT, OP_POLL_ADD, channel.fd)
            sqe.op_flags = POLLIN
        else:
            sqe = self.request(channel, TAG_RECEIVE, OP_RECV, channel.fd)
            sqe.ioprio = RECV_MULTISHOT
            sqe.flags = SQE_BUFFER_SELECT
        return 0

    cdef int disarm(self, Channel channel) except -1:
        if not channel.watched & RECEIVE:
            self.cancel_once(channel, RECEIVING, receive_tag(channel))
        if not channel.watched & ACCEPT:
            self.cancel_once(channel, ACCEPTING, TAG_ACCEPT)
        if poll_mask(channel) != channel.slot:
            self.cancel_once(channel, POLLING, TAG_POLL)
        return 0

    cdef int cancel_once(self, Channel channel, int request, int tag) except -1:
        """Cancels a request that is under way and not being cancelled already."""
        if channel.state & request and not channel.state & request << CANCELLING \
                and self.active and not self.inherited:
            channel.state |= request << CANCELLING
            self.cancel_request(channel, tag)
        return 0

    cdef int watch(self, Channel channel, int interest) except -1:
        cdef int flags
        if self.inherited:
            self.raise_inherited()
        if channel.model is None:
            channel.model = self
        if interest & PLAIN and channel is not self.wake_reader:
            return self.watch_plain(channel, interest)
        if interest & (RECEIVE | ACCEPT) and not channel.watched:
            flags = c_fcntl(channel.fd, F_GETFL)
            if flags & O_NONBLOCK:
                c_fcntl(channel.fd, F_SETFL, flags & ~O_NONBLOCK)
        channel.watched |= interest
        return self.arm(channel)

    @cython.final
    cdef int watch_plain(self, Channel channel, int interest) except -1:
        if self.epoll is None:
            self.epoll = Epoll()
            self.epoll.queue = self.queue
        return self.epoll.watch(channel, interest)

    def stats(self):
        """As Model.stats; the calls of the epoll instance are included."""
        counters = WakeableModel.stats(self)
        if self.epoll is not None:
            for name, value in self.epoll.stats().items():
                counters[name] += value
        return counters

    # Descriptors that users watch are channels of the epoll instance: see the module's docstring.

    @cython.final
    cdef int poll_epoll(self) except -1:
        """Has the ring poll the epoll descriptor."""
        cdef noria_sqe *sqe = self.request(None, TAG_NONE, OP_POLL_ADD, self.epoll.epfd)
        sqe.op_flags = POLLIN
        sqe.user_data = TAG_EPOLL
        self.epoll_polled = True
        return 0

    @cython.final
    cdef int reap_epoll(self) except -1:
        """Moves the events of the epoll instance into the queue."""
        cdef size_t before = self.queue.count
        if self.epoll.closed:
            return 0
        self.epoll.wait(0)
        self.epoll_events += self.queue.count - before
        return 0

    cdef int unwatch(self, Channel channel, int interest) except -1:
        if channel.watched & PLAIN and channel is not self.wake_reader:
            return self.epoll.unwatch(channel, interest)
        channel.watched &= ~interest
        if self.closed or self.inherited:
            return 0
        return self.disarm(channel)

    cdef bint recv_in_flight(self, Channel channel) noexcept:
        return channel.state & RECEIVING and not channel.state & DIRECT

    cdef int release(self, Channel channel) except -1:
        channel.releasing = True
        if channel.watched & PLAIN and channel is not self.wake_reader:
            self.epoll.unwatch(channel, channel.watched)
        channel.watched = 0
        if not self.active:
            channel.state = 0       # all requests have ended; their events find it closing
        if self.closed or self.inherited or not channel.state & UNDER_WAY:
            return channel.released()
        channel.state |= CLOSING
        self.closing_channels += 1
        return self.disarm(channel)

    cdef bint send_later(self, Channel channel, const char *data, Py_ssize_t n) except -1:
        cdef noria_sqe *sqe
        if self.closed or self.inherited or not self.active or channel.state & SENDING:
            return False
        sqe = self.request(channel, TAG_SEND, OP_SEND, channel.fd)
        sqe.addr = <uint64_t>data
        sqe.len = <uint32_t>n
        sqe.op_flags = MSG_DONTWAIT | MSG_NOSIGNAL
        channel.state |= SENDING
        self.sends += 1
        self.counters.sends += 1
        return True

    cdef int flush_sends(self) except -1:
        if self.waiting and self.active and not self.inherited:
            self.enter(0, NULL)
        return 0

    cdef int submit(self, Operation operation) except -1:
        if self.inherited:
            self.raise_inherited()
        operation.pending = True
        if not self.active:
            self.deferred.append(operation)
            return 0
        return self.start(operation)

    cdef int start(self, Operation operation) except -1:
        cdef noria_sqe *sqe
        cdef int flags
        self.operations += 1
        if operation.kind == CONNECT:
            flags = c_fcntl(operation.fd, F_GETFL)
            if flags & O_NONBLOCK:
                c_fcntl(operation.fd, F_SETFL, flags & ~O_NONBLOCK)
            sqe = self.request(operation, TAG_OPERATION, OP_CONNECT, operation.fd)
            sqe.addr = <uint64_t>operation.buffer
            sqe.off = operation.size
            return 0
        if operation.kind == FSYNC:
            self.request(operation, TAG_OPERATION, OP_FSYNC, operation.fd)
            return 0
        sqe = self.request(operation, TAG_OPERATION,
                           OP_READ if operation.kind == PREAD else OP_WRITE, operation.fd)
        sqe.addr = <uint64_t>operation.buffer
        sqe.len = <uint32_t>operation.size
        sqe.off = operation.offset
        return 0

    cdef int cancel(self, Operation operation) except -1:
        operation.cancelled = True
        if operation.pending and self.active and not self.inherited:
            self.cancel_request(operation, TAG_OPERATION)
        return 0

    # Completions.

    cdef int enter(self, unsigned least, noria_timespec *timeout) except -1:
        """io_uring_enter(2): hands over the requests; waits for `least` completions."""
        cdef noria_getevents_arg arg
        cdef int r, error
        cdef unsigned flags = ENTER_GETEVENTS | ENTER_EXT_ARG
        store32(self.at.sq_tail, self.tail)
        memset(&arg, 0, sizeof(arg))
        arg.ts = <uint64_t>timeout
        self.counters.waits += 1
        if least:
            with nogil:
                r = <int>c_syscall(SYS_ENTER, self.ring, self.waiting, least, flags, &arg,
                                   sizeof(arg))
                error = errno
        else:
            r = <int>c_syscall(SYS_ENTER, self.ring, self.waiting, 0, flags, &arg, sizeof(arg))
            error = errno
        # What was taken is seen in the ring's head, also when the wait was cut short.
        self.waiting = self.tail - load32(self.at.sq_head)
        if r < 0:
            if error == EINTR:
                PyErr_CheckSignals()
            elif error != ETIME and error != EAGAIN and error != EBUSY:
                raise OSError(error, os.strerror(error), "io_uring_enter")
        return 0

    cdef int wait(self, int64_t timeout) except -1:
        cdef noria_timespec limit
        cdef noria_timespec *until = NULL
        cdef int64_t before
        if self.epoll is not None and not self.epoll_polled and not self.epoll_events:
            self.poll_epoll()
        if timeout > 0:
            limit.tv_sec = timeout // 1000000000
            limit.tv_nsec = timeout % 1000000000
            until = &limit
        if timeout == 0 or load32(self.at.cq_tail) != self.at.cq_head[0]:
            # Nothing to hand over and nothing the kernel wants to tell: no system call at all.
            if self.waiting or load32(self.at.sq_flags) & (SQ_TASKRUN | SQ_CQ_OVERFLOW):
                self.enter(0, NULL)
            elif load32(self.at.cq_tail) == self.at.cq_head[0]:
                return 0
            if self.recording:
                self.timestamps.requested = self.timestamps.ready = monotonic_ns()
        else:
            if self.sends:
                # They end here, and not all as wished: that is to be dealt with before any sleep.
                self.enter(0, NULL)
                self.reap()
                if self.queue.count:
                    return 0
            before = monotonic_ns()
            self.enter(1, until)
            self.timestamps.requested, self.timestamps.ready = before, monotonic_ns()
            self.counters.waiting_ns += self.timestamps.ready - before
        if self.reap() == 0:
            self.counters.empty_waits += 1
        return 0

    cdef int reap(self) except -1:
        """Moves completions into the queue; the number of them."""
        cdef uint32_t head = self.at.cq_head[0]
        cdef uint32_t tail = load32(self.at.cq_tail)
        cdef uint32_t buffer
        cdef noria_cqe *cqe
        cdef int tag, kind, n = <int>(tail - head)
        cdef Target target
        cdef void *data
        try:
            while head != tail:
                cqe = &self.at.cqes[head & self.at.cq_mask]
                head += 1
                tag = <int>(cqe.user_data & TAGS)
                if tag == TAG_NONE:
                    continue
                if tag == TAG_EPOLL:
                    self.epoll_polled = False
                    if cqe.res >= 0:        # else the end of a run has cancelled it
                        self.reap_epoll()
                    continue
                target = <Target><PyObject *>(cqe.user_data & ~<uint64_t>TAGS)
                data = NULL
                if tag == TAG_SEND:
                    self.reap_sent(<Channel>target, cqe.res)
                    Py_DECREF(target)
                    continue
                if tag == TAG_RECEIVE:
                    kind = RECEIVED
                    if cqe.flags & CQE_BUFFER:
                        buffer = cqe.flags >> CQE_BUFFER_SHIFT
                        data = (self.pool_memory_data + <size_t>buffer * self.buffer_size
                                + self.used[buffer])
                        if cqe.res > 0:
                            self.used[buffer] += cqe.res
                        if not cqe.flags & CQE_BUF_MORE:
                            kind |= LAST
                elif tag == TAG_DIRECT:
                    kind = RECEIVED | STRAIGHT
                elif tag == TAG_ACCEPT:
                    kind = ACCEPTED
                elif tag == TAG_POLL:
                    kind = READY
                else:
                    kind = DONE
                if not cqe.flags & CQE_MORE:
                    kind |= FINAL
                    if tag == TAG_OPERATION:
                        self.operations -= 1
                    elif self.ending and cqe.res == -ECANCELED \
                            and self.defer(<Channel>target, tag):
                        continue
                if self.closing_channels and tag != TAG_OPERATION and (<Channel>target).releasing:
                    self.closing_completions.put(target, kind, cqe.res, data)
                else:
                    self.queue.put(target, kind, cqe.res, data)
                    if self.ending and tag == TAG_RECEIVE:
                        (<Channel>target).state |= QUEUED
                if kind & FINAL:
                    self.under_way -= 1
                    Py_DECREF(target)       # the queue has its own
        finally:
            # Also if this raises: what was taken must not be taken again.
            store32(self.at.cq_head, head)
        if self.closing_completions.count:
            self.finish_closes()
        return n

    cdef bint defer(self, Channel channel, int tag) except -1:
        """A request of the channel was cancelled by the end of a run: the next run makes it.

        False if the end of the request has to wait in the queue behind data that came before.
        """
        cdef int request
        if channel.releasing or (tag == TAG_RECEIVE and channel.state & QUEUED):
            return False
        request = (ACCEPTING if tag == TAG_ACCEPT else POLLING if tag == TAG_POLL
                   else RECEIVING | DIRECT)
        channel.state &= ~(request | request << CANCELLING)
        if tag == TAG_POLL:
            channel.slot = 0
        if channel.watched:
            self.deferred.append(channel)
        self.under_way -= 1
        Py_DECREF(channel)
        return True

    @cython.final
    cdef int reap_sent(self, Channel channel, int result) except -1:
        self.under_way -= 1
        self.sends -= 1
        channel.state &= ~SENDING
        self.count_send(result)
        if channel.releasing:
            self.closing_completions.put(channel, SENT | FINAL, result, NULL)
        elif not channel.sent_all(result):
            self.queue.put(channel, SENT, result, NULL)
        return 0

    cdef int finish_closes(self) except -1:
        """Closes what was released, now and not in its turn: a peer may be waiting for the end
        while no handler is to run any more."""
        cdef Event event
        while self.closing_completions.take(&event):
            try:
                self.deliver(<Channel>event.target, &event)
            finally:
                Py_DECREF(<Target>event.target)
        return 0

    cdef int deliver(self, Channel channel, Event *event) except -1:
        cdef int kind = event.kind & MASK
        if event.kind == READY:     # without FINAL: of the epoll instance
            self.epoll_events -= 1
            return self.epoll.deliver(channel, event)
        try:
            if kind == RECEIVED:
                if event.kind & STRAIGHT:
                    self.deliver_straight(channel, event.result)
                else:
                    self.deliver_bytes(channel, event)
            elif kind == SENT:
                if not channel.releasing:
                    channel.sent_later(event.result)
            elif kind == ACCEPTED:
                if event.kind & FINAL:
                    channel.state &= ~(ACCEPTING | ACCEPTING << CANCELLING)
                if event.result >= 0:
                    if channel.releasing:
                        c_close(event.result)
                    else:
                        self.counters.connections += 1
                        channel.accepted(event.result)
                elif event.result != -ECANCELED and not channel.releasing:
                    if event.result == -EBADF:
                        channel.watched = 0     # closed by its owner: others would fail too
                    channel.failed(-event.result)
            else:
                self.deliver_readiness(channel, event)
        finally:
            # Also after KeyboardInterrupt: the loop may run again.
            if event.kind & FINAL:
                if channel.releasing:
                    if channel.state & CLOSING and not channel.state & UNDER_WAY:
                        channel.state &= ~CLOSING
                        self.closing_channels -= 1
                        channel.released()
                elif channel.watched:
                    self.arm(channel)
        return 0

    @cython.final
    cdef int deliver_bytes(self, Channel channel, Event *event) except -1:
        cdef int result = event.result
        cdef char *data = <char *>event.data
        if event.kind & FINAL:
            channel.state &= ~(RECEIVING | RECEIVING << CANCELLING | QUEUED)
        try:
            if channel.releasing:
                pass
            elif result > 0:
                self.counters.messages += 1
                self.counters.bytes_in += result
                channel.received(data, result)
            elif result == 0:
                channel.received(NULL, 0)
            elif result == -ENOBUFS:
                if self.given < self.buffers:
                    self.give_back(self.given)
                    self.given += 1
            elif result != -ECANCELED:
                channel.failed(-result)
            if result >= LARGE and channel.watched & RECEIVE and not channel.state & DIRECT:
                # arm makes a poll when this one has ended.
                self.cancel_once(channel, RECEIVING, TAG_RECEIVE)
        finally:
            if event.kind & OWNED:
                PyMem_RawFree(data)
            elif event.kind & LAST:
                self.give_back(<uint32_t>((data - self.pool_memory_data) // self.buffer_size))
        return 0

    cdef int deliver_straight(self, Channel channel, int result) except -1:
        cdef char *place = NULL
        cdef Py_ssize_t n, size = 0
        cdef bint reserved
        channel.state &= ~(RECEIVING | DIRECT | RECEIVING << CANCELLING)
        if result < 0 or channel.releasing or not channel.watched & RECEIVE:
            return 0        # cancelled
        reserved = channel.reserve(&place, &size)
        if not reserved:
            place, size = self.scratch, scratch_size
        self.counters.receives += 1
        n = self.kernel_receive(channel.fd, place, size)
        if n > 0:
            self.counters.messages += 1
            self.counters.bytes_in += n
        if n < 0 and n != -EAGAIN and n != -EINTR:
            if reserved:
                channel.filled(-1)
            return channel.failed(<int>-n)
        if reserved:
            channel.filled(n)
        elif n >= 0:
            channel.received(place, n)
        return 0

    cdef int deliver_readiness(self, Channel channel, Event *event) except -1:
        cdef int result = event.result, mask = 0
        channel.state &= ~(POLLING | POLLING << CANCELLING)
        if result == -EBADF and channel.watched and not channel.releasing:
            channel.watched = 0     # closed by its owner: another request fails the same way
            return channel.failed(EBADF)
        if result < 0 or channel.releasing:
            return 0        # cancelled: deliver makes a new one if something is watched still
        if result & (POLLIN | POLLHUP | POLLERR):
            mask = channel.watched & (READABLE | RECEIVE)
        if result & (POLLOUT | POLLHUP | POLLERR):
            mask |= channel.watched & SEND
        if mask & RECEIVE and channel.datagrams:
            self.receive_datagrams(channel)
        if mask & SEND & channel.watched:
            channel.writable()
        if mask & READABLE & channel.watched:
            channel.ready(READABLE)
        return 0

    cdef int flush_closes(self) except -1:
        if not self.active or self.inherited or self.owner != PyThread_get_thread_native_id():
            return 0
        while self.waiting or self.closing_channels:
            self.enter(0, NULL)
            if self.reap() == 0:    # the kernel completes some twenty requests a call
                break
        return 0

    cdef int discard(self, Event *event) except -1:
        if event.kind & MASK == ACCEPTED and event.result >= 0:
            c_close(event.result)
        elif event.kind & OWNED:
            PyMem_RawFree(event.data)
        return 0

    cdef int tear_down(self) except -1:
        """Cancels what is under way and waits until the kernel has let go of all memory."""
        cdef Event event
        cdef Channel channel
        if self.epoll is not None and not self.epoll.closed:
            self.epoll.closed = True    # close() would empty the queue that the two models share
            self.epoll.tear_down()
        self.deferred.clear()
        if self.active and not self.inherited and self.owner == PyThread_get_thread_native_id():
            self.cancel_all()
        while not self.inherited and self.queue.take(&event):
            self.discard(&event)
            (<Target>event.target).clear()
            if isinstance(<object>event.target, Channel):
                channel = <Channel>event.target
                channel.state = 0
                if channel.releasing:
                    channel.released()
            Py_DECREF(<Target>event.target)
        WakeableModel.tear_down(self)
        self.unmap()
        return 0

    def round_trip(self):
        """One NOP there and back: whether the ring really works here. Raises OSError if not."""
        self.start_run()
        self.request(None, TAG_NONE, OP_NOP, -1)
        self.enter(1, NULL)
        if load32(self.at.cq_tail) == self.at.cq_head[0]:
            raise OSError(EAGAIN, "io_uring completed nothing")
        self.reap()


cdef inline int receive_tag(Channel channel) noexcept:
    return TAG_DIRECT if channel.state & DIRECT else TAG_RECEIVE


cdef inline int poll_mask(Channel channel) noexcept:
    """What the ring polls a channel for. READABLE: of the pipe that wakes the loop."""
    cdef int mask = 0
    if channel.watched & READABLE or (channel.watched & RECEIVE and channel.datagrams):
        mask = POLLIN
    if channel.watched & SEND:
        mask |= POLLOUT
    return mask
