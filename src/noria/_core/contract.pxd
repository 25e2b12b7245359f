"""The contract between models, which do I/O, and channels, which use it.

Read this file first. It has five classes: an `Event` is something that happened, the `Queue` holds
the events that have not been handled, a `Target` handles them, a `Channel` is a target with a
descriptor, and a `Model` puts events into the queue. Code above this file uses a model's methods
and flags; it never tests which model it has.
"""

from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.stdint cimport int64_t, uint64_t

from noria._core.message cimport SpareMessages
from noria._core.recorder.record cimport Ring

cdef enum Interest:
    ACCEPT = 1      # connections of a listening socket       -> accepted(fd)
    RECEIVE = 2     # bytes, or datagrams, of a socket        -> received() or datagram_received()
    SEND = 4        # the socket can take more data           -> writable()
    READABLE = 8    # readiness of a descriptor that a user reads from -> ready(mask)
    WRITABLE = 16
    URGENT = 32     # out-of-band data, or an exceptional condition

cdef enum EventKind:
    CALL = 0        # run a callback; the only kind that is not I/O
    READY = 1       # result: the Interest bits that the descriptor is ready for
    RECEIVED = 2    # result: bytes received, 0 at the end of the stream, or -errno; data: the bytes
    ACCEPTED = 3    # result: the new descriptor, or -errno
    DONE = 4        # an operation has completed; result: its value, or -errno
    SENT = 5        # a send_later has completed; result: bytes sent, or -errno

cdef struct Event:
    PyObject *target    # a Target; the event owns a reference
    int kind
    int result
    void *data          # private to the model; see Model.deliver

cdef struct Counters:
    uint64_t waits              # calls that wait: select, poll, epoll_wait, io_uring_enter
    uint64_t empty_waits        # of these, calls that returned no event
    uint64_t receives           # recv, recvfrom; without the receives that a ring makes
    uint64_t empty_receives     # of these, calls that returned EAGAIN
    uint64_t sends              # send, sendmsg, sendto, sendfile
    uint64_t blocked_sends      # of these, calls that returned EAGAIN
    uint64_t accepts            # accept4; without the accepts that a ring makes
    uint64_t empty_accepts      # of these, calls that returned EAGAIN
    uint64_t controls           # other system calls of the model: epoll_ctl, setsockopt
    uint64_t connections        # connections accepted
    uint64_t messages           # calls of a handler with received bytes
    uint64_t bytes_in
    uint64_t bytes_out
    int64_t waiting_ns          # time asleep in the calls that wait

cdef struct Timestamps:
    # Of the message that is being handled; CLOCK_MONOTONIC in ns. 0 for a moment that the process
    # cannot observe: a copy that a sleeping call or the kernel makes.
    int64_t requested           # the wait, or the first receive, began
    int64_t ready               # the kernel reported readiness
    int64_t copy_begin
    int64_t copy_end
    uint64_t empty_polls        # receives that returned EAGAIN since the message before

cdef class Target:
    cdef int handle(self, Event *event) except -1
    cdef bint handle_error(self, object error) except -1
    cdef int clear(self) noexcept
    cdef int record_begin(self, Event *event, Ring *ring, uint64_t tail) noexcept

cdef class Queue:
    cdef Event *ring
    cdef size_t head                # events taken so far: its place is that modulo the size
    cdef readonly size_t count
    cdef size_t mask
    cdef int put(self, Target target, int kind, int result, void *data) except -1
    cdef bint take(self, Event *event) noexcept
    cdef int grow(self) except -1

cdef inline int queue_put(Queue queue, Target target, int kind, int result,
                          void *data) except -1:
    """`Queue.put`, without a call."""
    cdef Event *event
    if queue.count > queue.mask:
        queue.grow()
    event = &queue.ring[(queue.head + queue.count) & queue.mask]
    Py_INCREF(target)
    event.target = <PyObject *>target
    event.kind = kind
    event.result = result
    event.data = data
    queue.count += 1
    return 0

cdef inline bint queue_take(Queue queue, Event *event) noexcept:
    """`Queue.take`, without a call."""
    if queue.count == 0:
        return False
    event[0] = queue.ring[queue.head & queue.mask]
    queue.head += 1
    queue.count -= 1
    return True

cdef class Dispatcher:
    cdef int drain(self) except -1
    cdef bint abandon(self) noexcept

cdef class Channel(Target):
    cdef readonly int fd
    cdef unsigned short watched     # the Interest bits that the owner watches
    cdef unsigned short state       # private to the model
    cdef int slot                   # private to the model
    cdef unsigned char datagrams    # received with recvfrom, not recv
    cdef unsigned char releasing    # released by its owner: the model delivers no more events to it
    cdef unsigned char level_triggered  # even on an edge-triggered model
    cdef Model model
    cdef bint expects_large(self) noexcept
    cdef bint reserve(self, char **place, Py_ssize_t *size) except -1
    cdef int filled(self, Py_ssize_t n) except -1
    cdef int received(self, const char *data, Py_ssize_t n) except -1
    cdef int datagram_received(self, const char *data, Py_ssize_t n, void *address,
                               unsigned length) except -1
    cdef int accepted(self, int fd) except -1
    cdef int writable(self) except -1
    cdef int ready(self, int mask) except -1
    cdef int failed(self, int error) except -1
    cdef bint sent_all(self, int result) noexcept
    cdef int sent_later(self, int result) except -1
    cdef int released(self) except -1
    cdef uint64_t record_protocol(self, Ring *ring) noexcept

cdef class Operation(Target):
    cdef readonly int fd
    cdef readonly int kind          # CONNECT, PREAD, PWRITE or FSYNC
    cdef int64_t offset
    cdef char *buffer
    cdef Py_ssize_t size
    cdef bint pending
    cdef bint cancelled
    cdef object buffer_owner        # the object whose memory is `buffer`
    cdef object callback
    cdef public object cleanup      # called instead of the callback if the operation is cancelled
    cdef Py_ssize_t perform(self) noexcept nogil
    cdef int finish(self, Py_ssize_t result) except -1

cpdef enum:         # kinds of Operation; ints in Python too
    CONNECT = 1
    PREAD = 2
    PWRITE = 3
    FSYNC = 4

cdef class Model:
    cdef readonly str name
    cdef readonly Queue queue
    cdef Dispatcher dispatcher
    cdef Ring *recorder              # of the loop's recorder; NULL: nothing is recorded
    cdef Counters counters
    cdef Timestamps timestamps
    cdef public bint recording       # take the timestamps of each message
    cdef readonly bint closed
    cdef readonly bint inherited     # this process is the child of a fork, and not the creator
    cdef readonly int creator_pid    # the process that made the model
    # Capabilities that the catalogue does not list: how the code above makes the best of a model.
    cdef readonly bint polls_memory  # a poll that finds nothing makes no system call
    cdef bint close_unwatches        # closing a descriptor ends its registration in the kernel
    cdef char *scratch               # received bytes, until the handler has returned
    cdef SpareMessages spare_messages    # to be overwritten by the next ones: message.pxd
    cdef object thread_pool          # runs the operations that the model has no call for
    # For channels.
    cdef int watch(self, Channel channel, int interest) except -1
    cdef int unwatch(self, Channel channel, int interest) except -1
    cdef int unwatch_before_release(self, Channel channel) except -1
    cdef bint recv_in_flight(self, Channel channel) noexcept
    cdef int release(self, Channel channel) except -1
    cdef int deliver(self, Channel channel, Event *event) except -1
    cdef Py_ssize_t send(self, Channel channel, const char *data, Py_ssize_t n) except? -1
    cdef Py_ssize_t send_many(self, Channel channel, void *message) except? -1
    cdef bint send_later(self, Channel channel, const char *data, Py_ssize_t n) except -1
    cdef int flush_sends(self) except -1
    cdef Py_ssize_t count_send(self, int fd, Py_ssize_t r) noexcept
    cdef int copy_counters(self, Counters *counters) noexcept
    cdef int submit(self, Operation operation) except -1
    cdef int cancel(self, Operation operation) except -1
    # The kernel's calls; each returns a number or -errno. `simulated` replaces them.
    cdef int64_t now(self) noexcept
    cdef int64_t tick(self) noexcept
    cdef Py_ssize_t kernel_receive(self, int fd, char *data, Py_ssize_t n) noexcept
    cdef Py_ssize_t kernel_send(self, int fd, const char *data, Py_ssize_t n) noexcept
    cdef Py_ssize_t kernel_send_many(self, int fd, void *message) noexcept
    cdef int kernel_accept(self, int fd, int flags) noexcept
    cdef int kernel_end_sending(self, int fd) noexcept
    cdef int kernel_close(self, int fd) noexcept
    # For the loop.
    cdef int start_run(self) except -1
    cdef int wait(self, int64_t timeout) except -1
    cdef int wake(self) except -1
    cdef int flush_closes(self) except -1
    cdef int end_run(self) except -1
    cdef int discard(self, Event *event) except -1
    cdef int tear_down(self) except -1
    cdef int raise_inherited(self) except -1
    cdef int after_fork_in_child(self) except -1
