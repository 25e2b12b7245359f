"""The model io_uring(7): requests go into one ring, completions come out of it.

What shaped this file (uring_requests.pyx has more):

- The ring belongs to one thread (SINGLE_ISSUER), and the kernel completes requests only when that
  thread enters it (DEFER_TASKRUN, Linux 6.1). It is made disabled; the thread that runs the loop
  enables it.
- A loop may run in one thread after another. So requests are in flight only during a run: its end
  cancels them all, `deferred` lists what the next run submits again, and a run in another thread
  starts with a new ring. Between runs any thread may close the loop.
- A cancel races with data: bytes may arrive after a pause, and the stream holds them.
- A single send is a send(2) at once. Sends that many channels make in one turn are submitted by the
  call that waits for events (send_later). They never wait for space (MSG_DONTWAIT), so all have
  completed when that call returns. Without space, a one-shot poll waits for it.
- Descriptors that users watch are registered with an epoll instance, and the ring polls that one's
  descriptor. epoll holds no references to files, is level-triggered, and refuses closed descriptors
  and regular files. The poll is one-shot, and submitted again in the first wait after the handlers
  of all its events have run. It costs one epoll_wait(2) in each turn in which such a descriptor is
  ready; streams do not use it.
"""

cimport cython
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from noria._core.contract cimport (
    ACCEPT, ACCEPTED, DONE, READABLE, READY, RECEIVE, RECEIVED, SEND, SENT,
    Channel, Counters, Event, Queue, Target,
)
from noria._core.models.epoll cimport Epoll
from noria._core.models.readiness cimport PLAIN, receive_datagrams
from noria._core.models.uring_requests cimport *
from noria._core.models.wakeable cimport WakeableModel
from noria._core.recorder.events cimport RecordKind
from noria._core.recorder.record cimport record_transfer
from noria._core.uring.abi cimport *
from noria._core.uring.buffers cimport (
    buffers_data, buffers_index, buffers_provide, buffers_provide_more, buffers_register,
)
from noria._core.uring.ring cimport (
    ring_close_in_child, ring_has_completions, ring_needs_enter, ring_register,
)
from noria._core.sys cimport (
    EAGAIN, EBADF, ECANCELED, EINTR, ENOBUFS, POLLERR, POLLHUP, POLLIN, POLLOUT, c_close,
    monotonic_ns, thread_native_id,
)

import os

from noria._core.contract import SCRATCH_SIZE

cdef Py_ssize_t scratch_size = SCRATCH_SIZE

cdef enum:
    LARGE_MESSAGE_BYTES = 16 * 1024     # a message of this size is received in its handler's turn
    ACCEPTS_IN_A_ROW = 4                # then other processes that share the socket have their turn
    CANCEL_WAIT_NS = 20000000
    MAX_IDLE_CANCEL_WAITS = 50          # without a completion: one second, then close gives up

    # Event.kind: the EventKind, and above it:
    KIND_MASK = 0xff
    BUFFER_FULL = 0x100                 # the kernel has filled the buffer: provide it again
    REQUEST_DONE = 0x200                # the last completion of the request
    RECV_READY = 0x400                  # a large message is there to be received
    DATA_OWNED = 0x800                  # the data is a copy, for PyMem_RawFree


cdef class IoUring(RequestModel):
    """The model: runs, completions, and their delivery to channels."""

    cdef unsigned long thread_id    # of the thread that owns the ring, 0 before the first run
    cdef bint incomplete            # the ring is not set up completely: the next run makes one
    cdef bint ending_run            # all requests are being cancelled
    cdef Py_ssize_t closing_channels    # are closed when their requests have ended
    cdef Queue closing_completions      # of these channels
    cdef Epoll epoll                # has the descriptors that users watch; None before the first
    cdef bint epoll_poll_in_flight
    cdef size_t epoll_events        # its events that are in the queue
    cdef int accepted_fd            # the connection that is being passed on, which is blocking

    def __cinit__(self, bint incremental=True):
        self.name = "io_uring"
        self.polls_memory = True
        self.close_unwatches = True
        self.closing_completions = Queue()
        self.accepted_fd = -1

    cdef int after_fork_in_child(self) except -1:
        # The buffers stay: the handler that called fork may be using one.
        ring_close_in_child(&self.ring)
        return WakeableModel.after_fork_in_child(self)

    def fileno(self):
        """The ring's descriptor, -1 once closed."""
        return self.ring.fd

    # Runs.

    cdef int start_run(self) except -1:
        cdef unsigned long thread_id = thread_native_id()
        cdef int error
        WakeableModel.start_run(self)
        if self.thread_id != thread_id:
            if self.accepts_requests:
                raise RuntimeError("an io_uring loop belongs to the thread that ran it first until "
                                   "`run` returns there: run it there, or use the model 'epoll'")
            if self.thread_id or self.incomplete:
                self.replace_ring()
            self.incomplete = True
            error = -ring_register(&self.ring, REGISTER_ENABLE_RINGS, NULL, 0)
            if error:
                raise OSError(error, os.strerror(error), "io_uring enable")
            buffers_register(&self.buffers, &self.ring)
            self.incomplete = False
            self.thread_id = thread_id
        self.accepts_requests = True
        if self.deferred:
            self.arm_deferred()
        if not self.wake_reader.watched:
            self.watch(self.wake_reader, READABLE)
        return 0

    cdef int replace_ring(self) except -1:
        """Replace another thread's ring, which has no requests in flight, with a new one."""
        cdef Event *event
        cdef void *copy
        cdef size_t i
        # Data in the queue is in the old buffers: copy it.
        for i in range(self.queue.count):
            event = &self.queue.ring[(self.queue.head + i) & self.queue.mask]
            if (event.kind & KIND_MASK == RECEIVED and event.data != NULL
                    and not event.kind & DATA_OWNED):
                if event.result > 0:
                    copy = PyMem_RawMalloc(event.result)
                    if copy == NULL:
                        raise MemoryError
                    memcpy(copy, event.data, event.result)
                    event.data = copy
                    event.kind |= DATA_OWNED
                else:
                    event.data = NULL
                event.kind &= ~BUFFER_FULL
        self.thread_id = 0
        self.incomplete = True
        self.close_ring()
        return self.open_ring()

    cdef int end_run(self) except -1:
        """Cancel all requests and wait for their completions, so that any thread may run or close
        the loop next. Data that arrived meanwhile is in the queue."""
        cdef Event *event
        cdef size_t i
        if not self.accepts_requests or self.inherited or self.closed \
                or self.thread_id != thread_native_id():
            return 0
        if self.operations_in_flight:
            return 0        # not cancelled: the ring stays this thread's
        for i in range(self.queue.count):
            event = &self.queue.ring[(self.queue.head + i) & self.queue.mask]
            if event.kind & KIND_MASK == RECEIVED:
                (<Channel>event.target).state |= RECV_DATA_QUEUED
        self.ending_run = True
        try:
            self.cancel_all()
        finally:
            self.ending_run = False
        self.accepts_requests = self.in_flight != 0 or self.epoll_poll_in_flight
        return 0

    cdef int cancel_all(self) except -1:
        """Cancel all requests; wait until they have ended, or until none ends for a second."""
        cdef noria_sqe *sqe
        cdef noria_timespec timeout
        cdef int idle_waits = 0
        while self.in_flight or self.epoll_poll_in_flight or self.ring.to_submit:
            if self.in_flight or self.epoll_poll_in_flight:
                sqe = self.prepare(None, TAG_NONE, OP_ASYNC_CANCEL, -1)
                sqe.op_flags = CANCEL_ANY | CANCEL_ALL
            self.enter(0, NULL)
            self.reap()
            # The kernel completes some twenty requests in a call.
            while self.in_flight or self.epoll_poll_in_flight:
                timeout.tv_sec, timeout.tv_nsec = 0, CANCEL_WAIT_NS
                self.enter(1, &timeout)
                if self.reap() == 0:
                    idle_waits += 1
                    break
            if idle_waits == MAX_IDLE_CANCEL_WAITS:
                break
        return 0

    # Interests of channels.

    cdef int watch(self, Channel channel, int interest) except -1:
        if self.inherited:
            self.raise_inherited()
        if channel.model is None:
            channel.model = self
        if interest & PLAIN and channel is not self.wake_reader:
            return self.watch_with_epoll(channel, interest)
        if (interest & (RECEIVE | ACCEPT) and not channel.watched
                and channel.fd != self.accepted_fd):
            make_blocking(channel.fd)
        channel.watched |= interest
        return self.arm(channel)

    @cython.final
    cdef int watch_with_epoll(self, Channel channel, int interest) except -1:
        if self.epoll is None:
            self.epoll = Epoll()
            self.epoll.queue = self.queue
        return self.epoll.watch(channel, interest)

    cdef int copy_counters(self, Counters *counters) noexcept:
        # With the calls of the epoll instance.
        cdef uint64_t *sums = <uint64_t *>counters
        cdef uint64_t *more
        cdef size_t i
        counters[0] = self.counters
        if self.epoll is not None:
            more = <uint64_t *>&self.epoll.counters
            for i in range(sizeof(Counters) // sizeof(uint64_t)):
                sums[i] += more[i]
        return 0

    @cython.final
    cdef int poll_epoll(self) except -1:
        """Poll the epoll instance's descriptor."""
        cdef noria_sqe *sqe = self.prepare(None, TAG_NONE, OP_POLL_ADD, self.epoll.epfd)
        sqe.op_flags = POLLIN
        sqe.user_data = TAG_EPOLL
        self.epoll_poll_in_flight = True
        return 0

    @cython.final
    cdef int queue_epoll_events(self) except -1:
        """Put the events of the epoll instance in the queue."""
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
        return channel.state & RECV_IN_FLIGHT and not channel.state & RECV_BY_POLL

    cdef int release(self, Channel channel) except -1:
        channel.releasing = True
        if channel.watched & PLAIN and channel is not self.wake_reader:
            self.epoll.unwatch(channel, channel.watched)
        channel.watched = 0
        if not self.accepts_requests:
            channel.state = 0       # no request is in flight; queued events find it releasing
        if self.closed or self.inherited or not channel.state & ANY_IN_FLIGHT:
            return channel.released()
        channel.state |= CLOSE_PENDING
        self.closing_channels += 1
        return self.disarm(channel)

    # Completions.

    cdef int wait(self, int64_t timeout) except -1:
        cdef noria_timespec limit
        cdef noria_timespec *limit_or_null = NULL
        cdef int64_t start
        if self.epoll is not None and not self.epoll_poll_in_flight and not self.epoll_events:
            self.poll_epoll()
        if timeout > 0:
            limit.tv_sec = timeout // 1000000000
            limit.tv_nsec = timeout % 1000000000
            limit_or_null = &limit
        if timeout == 0 or ring_has_completions(&self.ring):
            # Without anything to submit or to collect from the kernel: no system call at all.
            if self.ring.to_submit or ring_needs_enter(&self.ring):
                self.enter(0, NULL)
            elif not ring_has_completions(&self.ring):
                return 0
            if self.recording:
                self.timestamps.requested = self.timestamps.ready = monotonic_ns()
        else:
            if self.sends_in_flight:
                # They complete in this call, and some may fail: handle these before sleeping.
                self.enter(0, NULL)
                self.reap()
                if self.queue.count:
                    return 0
            start = monotonic_ns()
            self.enter(1, limit_or_null)
            self.timestamps.requested, self.timestamps.ready = start, monotonic_ns()
            self.counters.waiting_ns += self.timestamps.ready - start
        if self.reap() == 0:
            self.counters.empty_waits += 1
        return 0

    cdef int reap(self) except -1:
        """Put all completions in the queue; returns their number."""
        cdef uint32_t head = self.ring.queues.cq_head[0]
        cdef uint32_t tail = load32(self.ring.queues.cq_tail)
        cdef noria_cqe *cqe
        cdef int tag, kind, n = <int>(tail - head)
        cdef Target target
        cdef void *data
        try:
            while head != tail:
                cqe = &self.ring.queues.cqes[head & self.ring.queues.cq_mask]
                head += 1
                tag = <int>(cqe.user_data & TAG_MASK)
                if tag == TAG_NONE:
                    continue
                if tag == TAG_EPOLL:
                    self.epoll_poll_in_flight = False
                    if cqe.res >= 0:        # else the end of a run has cancelled it
                        self.queue_epoll_events()
                    continue
                target = <Target><PyObject *>(cqe.user_data & ~<uint64_t>TAG_MASK)
                data = NULL
                if tag == TAG_SEND:
                    self.reap_sent(<Channel>target, cqe.res)
                    Py_DECREF(target)
                    continue
                if tag == TAG_RECV:
                    kind = RECEIVED
                    if cqe.flags & CQE_BUFFER:
                        data = buffers_data(&self.buffers, cqe)
                        if not cqe.flags & CQE_BUF_MORE:
                            kind |= BUFFER_FULL
                elif tag == TAG_RECV_POLL:
                    kind = RECEIVED | RECV_READY
                elif tag == TAG_ACCEPT:
                    kind = ACCEPTED
                elif tag == TAG_POLL:
                    kind = READY
                else:
                    kind = DONE
                if not cqe.flags & CQE_MORE:
                    kind |= REQUEST_DONE
                    if tag == TAG_OPERATION:
                        self.operations_in_flight -= 1
                    elif self.ending_run and cqe.res == -ECANCELED \
                            and self.defer(<Channel>target, tag):
                        continue
                if self.closing_channels and tag != TAG_OPERATION and (<Channel>target).releasing:
                    self.closing_completions.put(target, kind, cqe.res, data)
                else:
                    self.queue.put(target, kind, cqe.res, data)
                    if self.ending_run and tag == TAG_RECV:
                        (<Channel>target).state |= RECV_DATA_QUEUED
                if kind & REQUEST_DONE:
                    self.in_flight -= 1
                    Py_DECREF(target)       # the queue has its own
        finally:
            # Also if this raises: no completion may be taken twice.
            store32(self.ring.queues.cq_head, head)
        if self.closing_completions.count:
            self.finish_closes()
        return n

    cdef bint defer(self, Channel channel, int tag) except -1:
        """Leave a request that the end of a run cancelled to the next run.

        Returns False if its completion must be queued, behind data that arrived before.
        """
        cdef int request
        if channel.releasing or (tag == TAG_RECV and channel.state & RECV_DATA_QUEUED):
            return False
        request = (ACCEPT_IN_FLIGHT if tag == TAG_ACCEPT else POLL_IN_FLIGHT if tag == TAG_POLL
                   else RECV_IN_FLIGHT | RECV_BY_POLL)
        channel.state &= ~(request | request << CANCEL_SHIFT)
        if tag == TAG_POLL:
            channel.slot = 0
        if channel.watched:
            self.deferred.append(channel)
        self.in_flight -= 1
        Py_DECREF(channel)
        return True

    @cython.final
    cdef int reap_sent(self, Channel channel, int result) except -1:
        self.in_flight -= 1
        self.sends_in_flight -= 1
        channel.state &= ~SEND_IN_FLIGHT
        self.count_send(channel.fd, result)
        if channel.releasing:
            self.closing_completions.put(channel, SENT | REQUEST_DONE, result, NULL)
        elif not channel.sent_all(result):
            self.queue.put(channel, SENT, result, NULL)
        return 0

    cdef int finish_closes(self) except -1:
        """Close released channels now, and not in their turn: a peer may be waiting for the end of
        the stream, and no further turn of the loop may follow."""
        cdef Event event
        while self.closing_completions.take(&event):
            try:
                self.deliver(<Channel>event.target, &event)
            finally:
                Py_DECREF(<Target>event.target)
        return 0

    cdef int deliver(self, Channel channel, Event *event) except -1:
        cdef int kind = event.kind & KIND_MASK
        if event.kind == READY:     # without REQUEST_DONE: of the epoll instance
            self.epoll_events -= 1
            return self.epoll.deliver(channel, event)
        try:
            if kind == RECEIVED:
                if event.kind & RECV_READY:
                    self.deliver_recv_ready(channel, event.result)
                else:
                    self.deliver_data(channel, event)
            elif kind == SENT:
                if not channel.releasing:
                    channel.sent_later(event.result)
            elif kind == ACCEPTED:
                if event.kind & REQUEST_DONE:
                    channel.state &= ~(ACCEPT_IN_FLIGHT | ACCEPT_IN_FLIGHT << CANCEL_SHIFT)
                elif self.counters.connections % ACCEPTS_IN_A_ROW == ACCEPTS_IN_A_ROW - 1:
                    # Then it is made again, behind those of other processes.
                    self.cancel_once(channel, ACCEPT_IN_FLIGHT, TAG_ACCEPT)
                if self.recorder != NULL and event.result != -ECANCELED:
                    record_transfer(self.recorder, RecordKind.ACCEPT, channel.fd,
                                    event.result)
                if event.result >= 0:
                    if channel.releasing:
                        c_close(event.result)
                    else:
                        self.counters.connections += 1
                        self.accepted_fd = event.result
                        try:
                            channel.accepted(event.result)
                        finally:
                            self.accepted_fd = -1
                elif event.result == -EAGAIN:
                    # A process that shares the socket has made it non-blocking.
                    if not channel.releasing:
                        make_blocking(channel.fd)
                elif event.result != -ECANCELED and not channel.releasing:
                    if event.result == -EBADF:
                        channel.watched = 0     # closed by its owner: a new request would fail too
                    channel.failed(-event.result)
            else:
                self.deliver_readiness(channel, event)
        finally:
            # Also after KeyboardInterrupt: the loop may run again.
            if event.kind & REQUEST_DONE:
                if channel.releasing:
                    if channel.state & CLOSE_PENDING and not channel.state & ANY_IN_FLIGHT:
                        channel.state &= ~CLOSE_PENDING
                        self.closing_channels -= 1
                        channel.released()
                elif channel.watched:
                    self.arm(channel)
        return 0

    @cython.final
    cdef int deliver_data(self, Channel channel, Event *event) except -1:
        cdef int result = event.result
        cdef char *data = <char *>event.data
        if event.kind & REQUEST_DONE:
            channel.state &= ~(RECV_IN_FLIGHT | RECV_IN_FLIGHT << CANCEL_SHIFT | RECV_DATA_QUEUED)
        if self.recorder != NULL and result != -ECANCELED and result != -ENOBUFS:
            record_transfer(self.recorder, RecordKind.RECEIVE, channel.fd, result)
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
                buffers_provide_more(&self.buffers)
            elif result != -ECANCELED:
                channel.failed(-result)
            if (result >= LARGE_MESSAGE_BYTES and channel.watched & RECEIVE
                    and not channel.state & RECV_BY_POLL):
                # When it has ended, `arm` polls instead.
                self.cancel_once(channel, RECV_IN_FLIGHT, TAG_RECV)
        finally:
            if event.kind & DATA_OWNED:
                PyMem_RawFree(data)
            elif event.kind & BUFFER_FULL:
                buffers_provide(&self.buffers, buffers_index(&self.buffers, data))
        return 0

    cdef int deliver_recv_ready(self, Channel channel, int result) except -1:
        cdef char *place = NULL
        cdef Py_ssize_t n, size = 0
        cdef bint reserved
        channel.state &= ~(RECV_IN_FLIGHT | RECV_BY_POLL | RECV_IN_FLIGHT << CANCEL_SHIFT)
        if result < 0 or channel.releasing or not channel.watched & RECEIVE:
            return 0        # cancelled
        reserved = channel.reserve(&place, &size)
        if not reserved:
            place, size = self.scratch, scratch_size
        self.counters.receives += 1
        n = self.kernel_receive(channel.fd, place, size)
        if self.recorder != NULL:
            record_transfer(self.recorder, RecordKind.RECEIVE, channel.fd, n)
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
        channel.state &= ~(POLL_IN_FLIGHT | POLL_IN_FLIGHT << CANCEL_SHIFT)
        if result == -EBADF and channel.watched and not channel.releasing:
            channel.watched = 0     # closed by its owner: a new request would fail too
            return channel.failed(EBADF)
        if result < 0 or channel.releasing:
            return 0        # cancelled: `deliver` submits a new one if something is watched
        if result & (POLLIN | POLLHUP | POLLERR):
            mask = channel.watched & (READABLE | RECEIVE)
        if result & (POLLOUT | POLLHUP | POLLERR):
            mask |= channel.watched & SEND
        if mask & RECEIVE and channel.datagrams:
            receive_datagrams(self, channel)
        if mask & SEND & channel.watched:
            channel.writable()
        if mask & READABLE & channel.watched:
            channel.ready(READABLE)
        return 0

    cdef int flush_closes(self) except -1:
        if (not self.accepts_requests or self.inherited
                or self.thread_id != thread_native_id()):
            return 0
        while self.ring.to_submit or self.closing_channels:
            self.enter(0, NULL)
            if self.reap() == 0:    # the kernel completes some twenty requests in a call
                break
        return 0

    cdef int discard(self, Event *event) except -1:
        if event.kind & KIND_MASK == ACCEPTED and event.result >= 0:
            c_close(event.result)
        elif event.kind & DATA_OWNED:
            PyMem_RawFree(event.data)
        return 0

    cdef int tear_down(self) except -1:
        """Cancel all requests and wait until the kernel no longer uses their memory."""
        cdef Event event
        cdef Channel channel
        if self.epoll is not None and not self.epoll.closed:
            self.epoll.closed = True    # its close() would empty the queue, which this model shares
            self.epoll.tear_down()
        self.deferred.clear()
        if (self.accepts_requests and not self.inherited
                and self.thread_id == thread_native_id()):
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
        self.close_ring()
        return 0

    def round_trip(self):
        """Check that the ring works: submit a NOP and wait for it. Raises OSError if not.

        Any thread may run the model afterwards.
        """
        self.start_run()
        self.prepare(None, TAG_NONE, OP_NOP, -1)
        self.enter(1, NULL)
        if not ring_has_completions(&self.ring):
            raise OSError(EAGAIN, "io_uring did not complete a NOP")
        self.reap()
        self.end_run()
        memset(&self.counters, 0, sizeof(self.counters))
