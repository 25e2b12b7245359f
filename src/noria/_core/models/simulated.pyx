"""A kernel in memory, for tests: a virtual clock, and faults drawn from a seed.

The code that runs on real sockets (readiness, streams, listeners, the loop) runs on it, and a seed
always produces the same trace, byte for byte. It simulates these faults of kernels: short reads and
writes, EAGAIN after readiness, EINTR, ECONNRESET, EMFILE from accept, waits without events, and
readiness that is reported late and in another order. There are three styles of reports:

- ``level``: readiness is reported for as long as it lasts;
- ``edge``: readiness is reported once for each change;
- ``completion``: the event carries the bytes. They may arrive after reading was paused, as they
  race with the cancellation, and ENOBUFS may end a request, which is then repeated.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy

from noria._core.contract cimport (
    ACCEPT, RECEIVE, RECEIVED, SEND, Channel, Event,
)
from noria._core.listener cimport Listener
from noria._core.loop cimport Loop
from noria._core.models.readiness cimport HANGUP, IN, OUT, Readiness
from noria._core.sys cimport (
    EAGAIN, ECONNRESET, EINTR, EMFILE, ENOBUFS, EPIPE, msghdr,
)
from noria._core.transport cimport StreamSet

import heapq
import socket

cdef enum:
    FIRST_FD = 1 << 20          # above the descriptors of the real kernel
    ODDS_SCALE = 1 << 16        # a probability of 1

STYLES = ("level", "edge", "completion")


class Stuck(RuntimeError):
    """Nothing is ready and no event is scheduled: on a real kernel the wait would never end."""


cdef class Chance:
    """A random number generator (xorshift64*, Marsaglia 2003), the same on each machine."""

    cdef uint64_t state

    def __init__(self, uint64_t seed):
        self.state = seed * <uint64_t>0x9E3779B97F4A7C15 + 0x1234567
        if self.state == 0:
            self.state = 1
        self.next()
        self.next()

    cdef uint64_t next(self) noexcept:
        self.state ^= self.state >> 12
        self.state ^= self.state << 25
        self.state ^= self.state >> 27
        return self.state * <uint64_t>0x2545F4914F6CDD1D >> 16

    cdef bint hit(self, int odds) noexcept:
        return <int>(self.next() % ODDS_SCALE) < odds

    cpdef int64_t below(self, int64_t n):
        """A number from 0 to n - 1."""
        return <int64_t>(self.next() % <uint64_t>n) if n > 0 else 0

    cpdef bytes data(self, Py_ssize_t n):
        """n random bytes."""
        cdef bytes made = PyBytes_FromStringAndSize(NULL, n)
        cdef char *p = PyBytes_AS_STRING(made)
        cdef Py_ssize_t i
        for i in range(n):
            p[i] = <char>(self.next() & 0xff)
        return made


cdef class Socket:
    """One end of a connection in memory; `peer` is the other."""

    cdef readonly int fd
    cdef Simulated sim
    cdef Socket peer
    cdef bytearray arrived      # bytes that can be read here
    cdef Py_ssize_t flying      # bytes that the peer has sent and that have not arrived
    cdef Py_ssize_t room        # the limit of arrived and flying bytes
    cdef bint ended             # the end of the peer's data has arrived
    cdef bint ending            # shutdown was called here
    cdef readonly bint reset    # the connection is broken
    cdef bint closed
    cdef int edges              # ReadyBits: changes that were not reported, for the edge style
    cdef public object reader   # of a test's end: reader(socket) is called when data arrives
    cdef int64_t last           # when the last segment arrives: segments stay in order

    def __init__(self, Simulated sim, int fd, Py_ssize_t room):
        self.sim = sim
        self.fd = fd
        self.room = room
        self.arrived = bytearray()

    # For the test's end of a connection.

    def send(self, bytes data):
        """Send what the peer has space for; return the number of bytes.

        Raises BrokenPipeError after a reset.
        """
        cdef Py_ssize_t n
        if self.reset or self.peer.closed:
            raise BrokenPipeError(EPIPE, "the connection is broken")
        n = min(<Py_ssize_t>len(data), self.peer.free())
        if n > 0:
            self.sim.fly(self.peer, data[:n])
        return max(n, <Py_ssize_t>0)

    def take(self, Py_ssize_t n=1 << 30):
        """Read up to n of the bytes that have arrived."""
        data = bytes(self.arrived[:n])
        del self.arrived[:n]
        if data and self.peer is not None:
            self.peer.edges |= OUT
        return data

    @property
    def at_end(self):
        """Whether all was read and the peer sends no more."""
        return (self.ended or self.reset) and not self.arrived

    def shutdown(self):
        """Stop sending."""
        if not self.ending and not self.reset:
            self.ending = True
            self.sim.fly(self.peer, None)

    def close(self):
        """Stop sending and reading."""
        self.shutdown()
        self.closed = True

    def abort(self):
        """Reset the connection: the peer gets ECONNRESET."""
        self.closed = self.ending = True
        self.reset = True
        self.sim.note(b"reset", self.peer.fd, 0)
        self.sim.at(self.sim.clock + self.sim.chance.below(1000), self.peer.break_now)

    def break_now(self):
        self.reset = True
        self.edges |= IN | OUT | HANGUP

    cdef Py_ssize_t free(self):
        return self.room - <Py_ssize_t>len(self.arrived) - self.flying


cdef class Simulated(Readiness):
    """The model on a kernel in memory.

    Args:
        seed: determines all random choices.
        style: ``"level"``, ``"edge"`` or ``"completion"``.
        faults: scales the probability of faults; 0 for none.
    """

    cdef readonly int64_t clock         # virtual, in ns
    cdef readonly Chance chance
    cdef readonly str style
    cdef bytearray trace_bytes
    cdef dict sockets                   # by descriptor
    cdef dict channels                  # watched, by descriptor
    cdef dict accepting                 # connections to accept, by the listener's descriptor
    cdef list future                    # a heap of (when, order, function)
    cdef int next_fd, odds
    cdef uint64_t order
    cdef bint completing

    def __init__(self, uint64_t seed=0, str style="level", double faults=1.0):
        if style not in STYLES:
            raise ValueError(f"style must be one of {', '.join(STYLES)}, not {style!r}")
        self.name = "simulated"
        self.style = style
        self.edge_triggered = style == "edge"
        self.completing = style == "completion"
        self.chance = Chance(seed)
        self.odds = <int>(faults * ODDS_SCALE / 16)
        self.trace_bytes = bytearray()
        self.sockets = {}
        self.channels = {}
        self.accepting = {}
        self.future = []
        self.next_fd = FIRST_FD

    # For tests.

    def listen(self, Loop loop, factory, StreamSet group=None):
        """Make a listener, to which `connect` connects."""
        cdef int fd = self.new_fd()
        self.accepting[fd] = []
        return Listener(loop, FakeSocket(fd), factory, StreamSet() if group is None else group)

    def connect(self, listener, Py_ssize_t room=4096):
        """Connect; return the test's end. The other end is accepted later."""
        cdef Socket here = Socket(self, self.new_fd(), room)
        cdef Socket there = Socket(self, self.new_fd(), room)
        here.peer, there.peer = there, here
        fd = listener.fileno()
        self.sockets[there.fd] = there
        self.note(b"connect", there.fd, room)
        self.at(self.clock + self.chance.below(100000), lambda: self.arrive_connection(fd, there))
        return here

    def at(self, int64_t when, function):
        """Call `function` at a virtual time, in ns."""
        self.order += 1
        heapq.heappush(self.future, (when, self.order, function))

    def trace(self):
        """The calls and events of this kernel, one a line."""
        return bytes(self.trace_bytes)

    def open_sockets(self):
        """The number of descriptors that the side under test has not closed."""
        return sum(1 for end in self.sockets.values() if not (<Socket>end).closed)

    # The kernel.

    cdef int note(self, bytes what, int fd, Py_ssize_t result) except -1:
        self.trace_bytes += b"%d %s %d %d\n" % (self.clock, what, fd - FIRST_FD, result)
        return 0

    cdef int new_fd(self) except -1:
        self.next_fd += 1
        return self.next_fd

    def arrive_connection(self, int fd, Socket there):
        waiting = self.accepting.get(fd)
        if waiting is None:
            there.closed = True
            there.peer.break_now()
        else:
            waiting.append(there)

    cdef int fly(self, Socket to, data) except -1:
        """Send a segment, or the end (None); the segments of a connection stay in order."""
        cdef int64_t when = self.clock + 1 + self.chance.below(50000)
        if when < to.last:
            when = to.last
        to.last = when
        if data is not None:
            to.flying += len(data)
        self.at(when, lambda: self.arrive(to, data))
        return 0

    def arrive(self, Socket to, data):
        if data is None:
            to.ended = True
            to.edges |= IN | HANGUP
        else:
            to.flying -= len(data)
            to.arrived += data
            to.edges |= IN
        if to.reader is not None:
            to.reader(to)

    cdef int64_t now(self) noexcept:
        return self.clock

    cdef int64_t tick(self) noexcept:
        return self.clock

    cdef Py_ssize_t kernel_receive(self, int fd, char *data, Py_ssize_t n) noexcept:
        cdef Py_ssize_t r = self.receive_from(self.sockets[fd], data, n)
        self.note(b"recv", fd, r)
        return r

    cdef Py_ssize_t receive_from(self, Socket end, char *data, Py_ssize_t n):
        cdef Py_ssize_t have = len(end.arrived)
        if end.reset:
            return -ECONNRESET
        if self.chance.hit(self.odds):
            return -EINTR
        if have == 0:
            return 0 if end.ended else -EAGAIN
        if not self.edge_triggered and self.chance.hit(self.odds):
            return -EAGAIN      # after a report of readiness: select(2), BUGS
        n = min(n, have)
        if not self.edge_triggered and self.chance.hit(self.odds * 4):
            n = 1 + self.chance.below(n)
        memcpy(data, <char *>end.arrived, n)
        del end.arrived[:n]
        end.peer.edges |= OUT
        return n

    cdef Py_ssize_t kernel_send(self, int fd, const char *data, Py_ssize_t n) noexcept:
        cdef Py_ssize_t r = self.send_to(self.sockets[fd], data, n)
        self.note(b"send", fd, r)
        return r

    cdef Py_ssize_t send_to(self, Socket end, const char *data, Py_ssize_t n):
        cdef Py_ssize_t room
        if end.reset:
            return -ECONNRESET
        if end.ending or end.peer.closed:
            return -EPIPE
        if self.chance.hit(self.odds):
            return -EINTR
        room = end.peer.free()
        if room <= 0 or self.chance.hit(self.odds):
            end.edges |= 0 if room <= 0 else OUT
            return -EAGAIN
        n = min(n, room)
        if self.chance.hit(self.odds * 4):
            n = 1 + self.chance.below(n)
            end.edges |= OUT
        self.fly(end.peer, PyBytes_FromStringAndSize(data, n))
        return n

    cdef Py_ssize_t kernel_send_many(self, int fd, void *message) noexcept:
        cdef msghdr *parts = <msghdr *>message
        cdef bytes joined = b""
        cdef size_t i
        for i in range(parts.msg_iovlen):
            joined += PyBytes_FromStringAndSize(<char *>parts.msg_iov[i].iov_base,
                                                parts.msg_iov[i].iov_len)
        return self.kernel_send(fd, PyBytes_AS_STRING(joined), PyBytes_GET_SIZE(joined))

    cdef int kernel_accept(self, int fd, int flags) noexcept:
        cdef int r = self.accept_from(self.accepting.get(fd) or [])
        self.note(b"accept", fd, r if r < 0 else r - FIRST_FD)
        return r

    cdef int accept_from(self, list waiting):
        if not waiting:
            return -EAGAIN
        if self.chance.hit(self.odds):
            return -EINTR
        if self.chance.hit(self.odds // 4):
            return -EMFILE
        return (<Socket>waiting.pop(0)).fd

    cdef int kernel_end_sending(self, int fd) noexcept:
        (<Socket>self.sockets[fd]).shutdown()
        self.note(b"shutdown", fd, 0)
        return 0

    cdef int kernel_close(self, int fd) noexcept:
        cdef Socket end
        self.note(b"close", fd, 0)
        if fd in self.accepting:
            for waiting in self.accepting.pop(fd):
                (<Socket>waiting).closed = True
                (<Socket>waiting).peer.break_now()
            return 0
        end = self.sockets[fd]
        if end.closed:
            self.note(b"CLOSED TWICE", fd, 0)
        end.closed = True
        if not end.reset:
            if end.arrived:
                end.peer.break_now()    # unread data: a reset (RFC 1122, 4.2.2.13)
                end.reset = True
            else:
                end.shutdown()
        return 0

    # The contract.

    cdef int start_run(self) except -1:
        return 0

    cdef int wake(self) except -1:
        return 0

    def wake_fd(self):
        return -1

    cdef int tear_down(self) except -1:
        for channel in list(self.channels.values()):
            (<Channel>channel).watched = 0
        self.channels.clear()
        return 0

    cdef int watch(self, Channel channel, int interest) except -1:
        if interest & ~(ACCEPT | RECEIVE | SEND):
            self.require("readiness")
        if self.edge_triggered and channel.fd in self.sockets \
                and interest & RECEIVE & ~channel.watched:
            (<Socket>self.sockets[channel.fd]).edges |= IN
        channel.watched |= interest
        self.channels[channel.fd] = channel
        return 0

    cdef int unwatch(self, Channel channel, int interest) except -1:
        # In the completion style, the request may complete until the next wait.
        channel.watched &= ~interest
        if not channel.watched and not self.completing:
            self.channels.pop(channel.fd, None)
        return 0

    cdef int release(self, Channel channel) except -1:
        channel.releasing = True
        channel.watched = 0
        self.channels.pop(channel.fd, None)
        return channel.released()

    cdef int wait(self, int64_t timeout) except -1:
        cdef int64_t until = self.clock + timeout
        self.counters.waits += 1
        while True:
            while self.future and self.future[0][0] <= self.clock:
                heapq.heappop(self.future)[2]()
            if self.queue_ready_sockets():
                return 0
            if timeout == 0 or (timeout > 0 and self.clock >= until):
                self.counters.empty_waits += 1
                return 0
            if self.chance.hit(self.odds):
                return 0        # EINTR
            if self.future and (timeout < 0 or self.future[0][0] <= until):
                self.clock = max(self.clock, <int64_t>self.future[0][0])
            elif timeout > 0:
                self.clock = until
            else:
                raise Stuck("all handlers wait, and no event is scheduled:\n"
                            + self.trace().decode()[max(0, len(self.trace_bytes) - 2000):])

    cdef int queue_ready_sockets(self) except -1:
        """Queue events of ready sockets, some late and in random order; return their number."""
        cdef list ready = []
        cdef Channel channel
        cdef int io, queued = 0
        cdef Py_ssize_t i, j
        for channel in list(self.channels.values()):
            io = self.io(channel)
            if io:
                ready.append((channel, io))
        for i in range(len(ready) - 1, 0, -1):
            j = self.chance.below(i + 1)
            ready[i], ready[j] = ready[j], ready[i]
        for i in range(len(ready)):
            if self.chance.hit(self.odds * 4) and i + 1 < len(ready):
                continue        # late
            channel, io = ready[i]
            self.note(b"tell", channel.fd, io)
            queued += 1
            if self.completing and channel.fd in self.sockets:
                self.complete(channel, io)
            else:
                if self.edge_triggered and channel.fd in self.sockets:
                    (<Socket>self.sockets[channel.fd]).edges &= ~io
                self.queue_ready(channel, io)
            if self.completing and not channel.watched:
                self.channels.pop(channel.fd, None)
        return queued

    cdef int io(self, Channel channel):
        cdef Socket end
        cdef int io = 0
        if channel.fd in self.accepting:
            return IN if self.accepting[channel.fd] and channel.watched & ACCEPT else 0
        end = self.sockets[channel.fd]
        if end.arrived or end.ended or end.reset:
            io = IN
        if end.reset or end.peer.closed or end.peer.free() > 0:
            io |= OUT
        if end.ended or end.reset:
            io |= HANGUP
        if self.edge_triggered:
            io &= end.edges | HANGUP    # an edge comes with the whole present state (epoll(7))
        if not channel.watched & RECEIVE and not (self.completing and end.arrived):
            io &= ~IN
        if not channel.watched & SEND:
            io &= ~OUT
        return io if io & (IN | OUT) else 0

    cdef int complete(self, Channel channel, int io) except -1:
        cdef Socket end = self.sockets[channel.fd]
        cdef Py_ssize_t n
        cdef char *data
        if io & IN:
            if self.chance.hit(self.odds):
                self.queue.put(channel, RECEIVED, -ENOBUFS, NULL)
            elif end.reset or not end.arrived:
                self.queue.put(channel, RECEIVED, -ECONNRESET if end.reset else 0, NULL)
            else:
                n = 1 + self.chance.below(len(end.arrived))
                data = <char *>PyMem_RawMalloc(n)
                if data == NULL:
                    raise MemoryError
                memcpy(data, <char *>end.arrived, n)
                del end.arrived[:n]
                end.peer.edges |= OUT
                self.note(b"complete", channel.fd, n)
                self.queue.put(channel, RECEIVED, <int>n, data)
        if io & OUT:
            self.queue_ready(channel, OUT)
        return 0

    cdef int deliver(self, Channel channel, Event *event) except -1:
        if event.kind != RECEIVED:
            return Readiness.deliver(self, channel, event)
        try:
            if channel.releasing or event.result == -ENOBUFS:
                return 0
            if event.result < 0:
                return channel.failed(-event.result)
            if event.result == 0 and not channel.watched & RECEIVE:
                return 0        # the end of the stream is reported again
            return channel.received(<char *>event.data, event.result)
        finally:
            PyMem_RawFree(event.data)

    cdef int discard(self, Event *event) except -1:
        if event.kind == RECEIVED:
            PyMem_RawFree(event.data)
        return 0


class FakeSocket:
    """The methods of a listening socket that Listener calls."""

    family = socket.AF_UNIX

    def __init__(self, fd):
        self.fd = fd

    def getsockname(self):
        return f"simulated:{self.fd - FIRST_FD}"

    def detach(self):
        return self.fd
