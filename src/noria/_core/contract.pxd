"""The contract between what does I/O (a model) and what wants it (a channel).

Everything above stands on these five: an `Event` is what happened, the `Queue` holds what happened
and was not handled yet, a `Target` handles it, a `Channel` is a target with a descriptor, and a
`Model` puts events in the queue. Nothing above asks which model it is talking to.
"""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint64_t

cdef enum Interest:
    ACCEPT = 1      # connections of a listening socket      -> accepted(fd)
    RECEIVE = 2     # bytes or datagrams of a socket         -> received(bytes) / arrived(datagram)
    SEND = 4        # room to send again                     -> writable()
    READABLE = 8    # plain readiness, nothing is read       -> ready(mask)
    WRITABLE = 16
    URGENT = 32     # out-of-band data, an exceptional condition

cdef enum EventKind:
    CALL = 0        # run a callback; the only kind that is not I/O
    READY = 1       # result: a mask of Interest the descriptor is ready for
    RECEIVED = 2    # result: bytes received, 0 at the end, or -errno; data: where they are
    ACCEPTED = 3    # result: the new descriptor, or -errno
    DONE = 4        # an operation ended; result: its value, or -errno
    SENT = 5        # send_later ended; result: bytes sent, or -errno

cdef struct Event:
    PyObject *target    # a Target; the event owns a reference
    int kind
    int result
    void *data          # the model's own; see Model.deliver

cdef struct Counters:
    uint64_t waits              # calls that wait: select, poll, epoll_wait, io_uring_enter
    uint64_t empty_waits        # of these, those that found nothing
    uint64_t receives           # recv, recvfrom (not those the kernel did for a ring)
    uint64_t empty_receives     # of these, those that found nothing (EAGAIN)
    uint64_t sends              # send, sendmsg, sendto
    uint64_t blocked_sends      # of these, those that found no room (EAGAIN)
    uint64_t accepts            # accept4 (not those the kernel did for a ring)
    uint64_t empty_accepts
    uint64_t controls           # epoll_ctl, setsockopt and whatever else a model had to call
    uint64_t connections        # accepted in all
    uint64_t messages           # deliveries of bytes to a handler
    uint64_t bytes_in
    uint64_t bytes_out
    int64_t waiting_ns          # time asleep in the kernel, waiting

cdef struct Timestamps:
    # When the message that is being handled was asked for, known of, and copied; CLOCK_MONOTONIC
    # in ns, 0 where the process cannot see it (a copy inside a sleeping call or by the kernel).
    int64_t requested
    int64_t ready
    int64_t copy_begin
    int64_t copy_end
    uint64_t empty_polls        # asks that found nothing since the last message

cdef class Target:
    cdef int handle(self, Event *event) except -1
    cdef bint handle_error(self, object error) except -1
    cdef int clear(self) noexcept

cdef class Queue:
    cdef Event *ring
    cdef size_t head
    cdef readonly size_t count
    cdef size_t mask
    cdef int put(self, Target target, int kind, int result, void *data) except -1
    cdef bint take(self, Event *event) noexcept
    cdef int grow(self) except -1

cdef class Dispatcher:
    cdef int drain(self) except -1
    cdef bint abandon(self) noexcept

cdef class Channel(Target):
    cdef readonly int fd
    cdef unsigned short watched     # Interest bits that the owner asked for
    cdef unsigned short state       # the model's own bits
    cdef int slot                   # the model's own number
    cdef bint datagrams             # recvfrom, not recv
    cdef bint releasing             # let go of: the model gives it no more events
    cdef bint level_triggered       # told of readiness while it is so, even where edges are told
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

cdef class Operation(Target):
    cdef readonly int fd
    cdef readonly int kind          # CONNECT, PREAD, PWRITE or FSYNC
    cdef int64_t offset
    cdef char *buffer
    cdef Py_ssize_t size
    cdef unsigned length            # of an address
    cdef bint pending
    cdef bint cancelled
    cdef object buffer_owner                # what owns the buffer's memory
    cdef object callback
    cdef public object cleanup      # called instead of the callback when it was cancelled
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
    cdef Counters counters
    cdef Timestamps timestamps
    cdef public bint recording      # note the moments of each message
    cdef readonly bint closed
    cdef readonly bint polls_memory  # a poll that finds nothing makes no system call
    cdef readonly bint inherited    # this process is a child of the one that made it
    cdef readonly int creator_pid   # the process that made it
    cdef bint close_unwatches       # closing a descriptor ends its watch in the kernel
    cdef char *scratch              # one message's bytes, between the kernel and the handler
    cdef object spare_message       # the last message, if its handler let go of it; see stream.pyx
    cdef Py_ssize_t spare_size
    cdef object thread_pool         # threads for what this model has no call for
    cdef dict capabilities
    cdef int watch(self, Channel channel, int interest) except -1
    cdef int unwatch(self, Channel channel, int interest) except -1
    cdef bint recv_in_flight(self, Channel channel) noexcept
    cdef int release(self, Channel channel) except -1
    cdef int deliver(self, Channel channel, Event *event) except -1
    cdef bint receive_datagrams(self, Channel channel) except -1
    cdef Py_ssize_t send(self, Channel channel, const char *data, Py_ssize_t n) except? -1
    cdef Py_ssize_t send_many(self, Channel channel, void *message) except? -1
    cdef bint send_later(self, Channel channel, const char *data, Py_ssize_t n) except -1
    cdef int flush_sends(self) except -1
    cdef Py_ssize_t count_send(self, Py_ssize_t r) noexcept
    cdef int64_t now(self) noexcept
    cdef int64_t tick(self) noexcept
    # The kernel's own calls; each gives a number or -errno. `simulated` has its own kernel.
    cdef Py_ssize_t kernel_receive(self, int fd, char *data, Py_ssize_t n) noexcept
    cdef Py_ssize_t kernel_send(self, int fd, const char *data, Py_ssize_t n) noexcept
    cdef Py_ssize_t kernel_send_many(self, int fd, void *message) noexcept
    cdef int kernel_accept(self, int fd, int flags) noexcept
    cdef int kernel_end_sending(self, int fd) noexcept
    cdef int kernel_close(self, int fd) noexcept
    cdef int submit(self, Operation operation) except -1
    cdef int cancel(self, Operation operation) except -1
    cdef int wait(self, int64_t timeout) except -1
    cdef int wake(self) except -1
    cdef int start_run(self) except -1
    cdef int flush_closes(self) except -1
    cdef int end_run(self) except -1
    cdef int discard(self, Event *event) except -1
    cdef int tear_down(self) except -1
    cdef int raise_inherited(self) except -1
    cdef int after_fork_in_child(self) except -1

cdef class WakeChannel(Channel):
    pass

cdef class WakeableModel(Model):
    cdef Channel wake_reader
    cdef int wake_writer
    cdef bint wake_pending

cdef int empty_pipe(int fd) except -1
