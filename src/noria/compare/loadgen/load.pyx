# cython: language_level=3, cdivision=True
"""A load generator, compiled and without the GIL, so that the server is the limit.

The load is closed-loop: each connection keeps `depth` messages in flight and sends the next one
only when an echo is complete. A latency is the time from the send of a message to the last byte of
its echo; messages that a slower server kept from being sent do not count.

The content of all messages comes from one buffer of pseudorandom bytes, the payload: message `m` of
connection `c` begins at `payload_offset(c, m)`. Connections with the same message number use
different offsets, and so do successive messages of one connection. So a message that is lost,
repeated, or sent to another connection differs from the expected one. No buffer is filled per
message, and one `memcmp` checks an echo. (Messages of fewer than 8 bytes may be equal by chance.)

Instead of messages it can send one fixed request. Then a response has a fixed length, and begins
with fixed bytes (the status line); the rest is not compared, as it may contain the time.

This module has the hot loop; `connections` connects the sockets, `histogram` counts latencies.
"""

import errno as _errno
import os

from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset

from noria.compare.loadgen.connections cimport ConnectionPool, IdleConnections
from noria.compare.loadgen.histogram cimport Histogram, add_latency, used_buckets
from noria.compare.loadgen.kernel cimport (
    EPOLL_BATCH,
    EPOLL_CLOEXEC,
    EPOLL_CTL_ADD,
    EPOLL_CTL_MOD,
    EPOLLIN,
    EPOLLOUT,
    MSG_NOSIGNAL,
    NS_PER_MS,
    SLICE_NS,
    clock,
    close,
    epoll_create1,
    epoll_ctl,
    epoll_event,
    epoll_wait,
    iovec,
    msghdr,
    recv,
    send,
    sendmsg,
    ssize_t,
)

from noria.compare.loadgen.connections import check_descriptors, open_idle, resolve
from noria.compare.loadgen.histogram import percentile
from noria.compare.loadgen.result import LoadResult, WrongEcho

__all__ = ["LoadResult", "OpenLoad", "WrongEcho", "open_idle", "run"]

cdef enum:
    MAX_IOVECS = 64             # messages per sendmsg
    RECV_BUFFER_BYTES = 262144
    PAYLOAD_OFFSETS = 65536     # offsets in the payload at which messages begin

cdef double FIRST_ROUND_STEP_SECONDS = 0.1  # the first round ends after a step without new answers
cdef double MAX_FIRST_ROUND_SECONDS = 5.0
cdef int64_t DRAIN_NS = 250 * NS_PER_MS     # for echoes in flight at the end

# Results of driving the load without the GIL.
cdef enum Outcome:
    DONE
    CONTINUE           # the time slice has ended: check for signals, then continue
    FAILED             # errno is in `error`, the connection in `failed_conn`
    CONNECTION_CLOSED  # by the server: `failed_conn`
    WRONG_ECHO
    EXTRA_DATA         # more was received than sent


cdef inline int timeout_ms(int64_t ns) noexcept nogil:
    """A timeout for epoll_wait; at least 1, so that a short wait does not spin."""
    return 1 if ns < NS_PER_MS else <int>(ns / NS_PER_MS)


cdef struct Conn:
    # Message number `sent` is being sent, message number `received` is being received.
    int fd
    uint32_t number
    uint64_t sent
    uint64_t received
    size_t sent_bytes      # of message `sent`, accepted by the kernel
    size_t received_bytes  # of message `received`
    uint64_t answered      # echoes in the measured time
    bint send_blocked      # EPOLLOUT is watched
    int64_t* sent_at       # a ring of `depth` times (ns), one per message in flight


cdef class EchoLoad:
    """The load on one pool of connections."""

    cdef ConnectionPool pool
    cdef Conn* conns
    cdef int64_t* sent_at
    cdef uint8_t* payload
    cdef uint8_t* buffer
    cdef Histogram* latencies
    cdef int epfd
    cdef size_t size
    cdef size_t reply_size
    cdef size_t expected_size     # bytes of a reply that are compared
    cdef bint fixed_request
    cdef uint64_t depth
    cdef bint measuring
    cdef bint first_round         # send one message per connection
    cdef bint draining
    cdef uint32_t answered_conns  # connections with at least one echo
    cdef int64_t end_ns           # of the current run_for()
    cdef int error
    cdef Conn* failed_conn
    cdef size_t mismatch_at

    def __cinit__(self, ConnectionPool pool, size_t size, uint64_t depth, bint verify):
        cdef uint64_t word = 0x9E3779B97F4A7C15
        cdef size_t i
        cdef size_t room = PAYLOAD_OFFSETS + size
        self.epfd = -1
        self.pool = pool
        self.size = self.reply_size = size
        self.expected_size = size if verify else 0
        self.depth = depth
        self.conns = <Conn*>calloc(pool.count, sizeof(Conn))
        self.sent_at = <int64_t*>calloc(pool.count * depth, sizeof(int64_t))
        self.payload = <uint8_t*>malloc(room)
        self.buffer = <uint8_t*>malloc(RECV_BUFFER_BYTES)
        self.latencies = <Histogram*>calloc(1, sizeof(Histogram))
        if (self.conns == NULL or self.sent_at == NULL or self.payload == NULL
                or self.buffer == NULL or self.latencies == NULL):
            raise MemoryError
        for i in range(room):  # xorshift64: the same payload in every run
            word ^= word << 13
            word ^= word >> 7
            word ^= word << 17
            self.payload[i] = <uint8_t>(word >> 32)

    def __dealloc__(self):
        if self.epfd >= 0:
            close(self.epfd)
        free(self.conns)
        free(self.sent_at)
        free(self.payload)
        free(self.buffer)
        free(self.latencies)

    cdef int set_request(self, bytes request, bytes expected, size_t reply_size) except -1:
        """Send `request` instead of messages; replies have `reply_size` bytes."""
        if not 0 < len(request) <= self.size or len(expected) > PAYLOAD_OFFSETS:
            raise ValueError("the request or the expected beginning has a wrong size")
        self.fixed_request = True
        self.reply_size = reply_size
        self.expected_size = len(expected)
        memcpy(self.payload, <const char*>request, len(request))
        memcpy(self.payload + self.size, <const char*>expected, len(expected))
        return 0

    cdef inline uint8_t* message(self, Conn* conn, uint64_t number) noexcept nogil:
        """Where a message begins in the payload. The odd factors make neighbours differ."""
        if self.fixed_request:
            return self.payload
        return self.payload + (
            (<uint64_t>conn.number * 40503 + number * 31) & (PAYLOAD_OFFSETS - 1)
        )

    cdef inline uint8_t* expected(self, Conn* conn) noexcept nogil:
        """The first `expected_size` bytes of the reply that is being received."""
        if self.fixed_request:
            return self.payload + self.size
        return self.message(conn, conn.received)

    cdef int prepare(self) except -1:
        cdef uint32_t i
        cdef epoll_event event
        self.epfd = epoll_create1(EPOLL_CLOEXEC)
        if self.epfd < 0:
            raise OSError(errno, os.strerror(errno))
        for i in range(self.pool.count):
            self.conns[i].fd = self.pool.fds[i]
            self.conns[i].number = i
            self.conns[i].sent_at = self.sent_at + i * self.depth
            if self.conns[i].fd < 0:
                continue
            event.events = EPOLLIN
            event.data.u64 = i
            if epoll_ctl(self.epfd, EPOLL_CTL_ADD, self.conns[i].fd, &event) < 0:
                raise OSError(errno, os.strerror(errno))
        return 0

    cdef Outcome send_all(self) noexcept nogil:
        """Send on every connection; see send_messages."""
        cdef uint32_t i
        cdef Outcome outcome
        for i in range(self.pool.count):
            if self.conns[i].fd >= 0:
                outcome = self.send_messages(&self.conns[i])
                if outcome != DONE:
                    return outcome
        return DONE

    cdef Outcome drive(self) noexcept nogil:
        """Exchange messages until end_ns (DONE) or the end of a time slice (CONTINUE)."""
        cdef epoll_event[EPOLL_BATCH] events
        cdef Conn* conn
        cdef Outcome outcome
        cdef int i, n
        cdef int64_t now = clock()
        cdef int64_t until = now + SLICE_NS
        if self.end_ns < until:
            until = self.end_ns
        while now < until:
            n = epoll_wait(self.epfd, events, EPOLL_BATCH, timeout_ms(until - now))
            if n < 0:
                if errno == EINTR:
                    return CONTINUE
                self.error = errno
                return FAILED
            for i in range(n):
                conn = &self.conns[events[i].data.u64]
                if events[i].events != EPOLLOUT:  # data, an error or a hang-up: recv reports which
                    outcome = self.receive(conn)
                    if outcome != DONE:
                        return outcome
                outcome = self.send_messages(conn)
                if outcome != DONE:
                    return outcome
            if self.first_round and self.answered_conns == self.pool.connected:
                return DONE
            if self.draining and self.all_answered():
                return DONE
            now = clock()
        return DONE if now >= self.end_ns else CONTINUE

    cdef bint all_answered(self) noexcept nogil:
        """Whether no connection with at least one echo has messages in flight."""
        cdef uint32_t i
        for i in range(self.pool.count):
            if self.conns[i].received and (
                self.conns[i].sent != self.conns[i].received or self.conns[i].sent_bytes
            ):
                return False
        return True

    cdef Outcome receive(self, Conn* conn) noexcept nogil:
        """Receive once; check and count echoes. epoll (level-triggered) reports remaining data."""
        cdef ssize_t got = recv(conn.fd, self.buffer, RECV_BUFFER_BYTES, 0)
        cdef size_t left, part, compared, at = 0
        cdef uint8_t* due
        cdef int64_t now
        if got < 0:
            if errno == EAGAIN or errno == EINTR:
                return DONE
            self.failed_conn = conn
            self.error = errno
            return FAILED
        if got == 0:
            self.failed_conn = conn
            return CONNECTION_CLOSED
        now = clock()
        left = <size_t>got
        while left:
            if conn.received == conn.sent and conn.sent_bytes <= conn.received_bytes:
                self.failed_conn = conn
                return EXTRA_DATA
            part = self.reply_size - conn.received_bytes
            if part > left:
                part = left
            if conn.received_bytes < self.expected_size:
                due = self.expected(conn) + conn.received_bytes
                compared = self.expected_size - conn.received_bytes
                if compared > part:
                    compared = part
                if memcmp(self.buffer + at, due, compared) != 0:
                    self.failed_conn = conn
                    self.mismatch_at = conn.received_bytes
                    while self.buffer[at] == due[0]:
                        self.mismatch_at += 1
                        at += 1
                        due += 1
                    return WRONG_ECHO
            at += part
            left -= part
            conn.received_bytes += part
            if conn.received_bytes == self.reply_size:
                if self.measuring:
                    add_latency(self.latencies, now - conn.sent_at[conn.received % self.depth])
                    conn.answered += 1
                if conn.received == 0:
                    self.answered_conns += 1
                conn.received += 1
                conn.received_bytes = 0
        return DONE

    cdef Outcome send_messages(self, Conn* conn) noexcept nogil:
        """Send until `depth` messages are in flight or the socket's buffer is full."""
        cdef iovec[MAX_IOVECS] parts
        cdef msghdr message
        cdef uint64_t end = conn.received + self.depth
        cdef uint64_t which
        cdef size_t requested, taken
        cdef ssize_t sent
        cdef int n
        cdef int64_t now
        if self.first_round:
            end = 1
        if self.draining:  # complete a partly sent message only
            end = conn.sent + (1 if conn.sent_bytes else 0)
        while conn.sent < end:
            now = clock()
            n = 0
            requested = 0
            which = conn.sent
            while which < end and n < MAX_IOVECS:
                parts[n].iov_base = self.message(conn, which)
                parts[n].iov_len = self.size
                if n == 0 and conn.sent_bytes:
                    parts[0].iov_base = <uint8_t*>parts[0].iov_base + conn.sent_bytes
                    parts[0].iov_len -= conn.sent_bytes
                else:
                    conn.sent_at[which % self.depth] = now
                requested += parts[n].iov_len
                which += 1
                n += 1
            if n == 1:
                sent = send(conn.fd, parts[0].iov_base, parts[0].iov_len, MSG_NOSIGNAL)
            else:
                memset(&message, 0, sizeof(message))
                message.msg_iov = parts
                message.msg_iovlen = n
                sent = sendmsg(conn.fd, &message, MSG_NOSIGNAL)
            if sent < 0:
                if errno == EINTR:
                    continue
                if errno == EAGAIN:
                    return self.watch_send(conn, True)
                self.failed_conn = conn
                self.error = errno
                return FAILED
            taken = conn.sent_bytes + <size_t>sent
            conn.sent += taken / self.size
            conn.sent_bytes = taken % self.size
            if <size_t>sent < requested:
                return self.watch_send(conn, True)
        return self.watch_send(conn, False)

    cdef Outcome watch_send(self, Conn* conn, bint send_blocked) noexcept nogil:
        """Watch the socket for EPOLLOUT, or stop watching."""
        cdef epoll_event event
        if send_blocked == conn.send_blocked:
            return DONE
        conn.send_blocked = send_blocked
        event.events = EPOLLIN | EPOLLOUT if send_blocked else EPOLLIN
        event.data.u64 = conn.number
        if epoll_ctl(self.epfd, EPOLL_CTL_MOD, conn.fd, &event) < 0:
            self.failed_conn = conn
            self.error = errno
            return FAILED
        return DONE

    cdef int run_for(self, double seconds) except -1:
        """Exchange messages for `seconds`; check for signals every SLICE_NS."""
        cdef Outcome outcome = CONTINUE
        self.end_ns = clock() + <int64_t>(seconds * 1e9)
        while outcome == CONTINUE:
            with nogil:
                outcome = self.drive()
            PyErr_CheckSignals()
        return self.raise_for_outcome(outcome)

    cdef int await_first_echoes(self) except -1:
        """Wait for one echo on every connection, or on as many as the server serves at once.

        A server may accept one connection per loop iteration, and its iterations grow longer with
        each accepted connection. Without this wait, the measurement would include accepting.
        """
        cdef uint32_t before
        cdef bint complete
        cdef int64_t latest = clock() + <int64_t>(MAX_FIRST_ROUND_SECONDS * 1e9)
        self.first_round = True
        self.raise_for_outcome(self.send_all())
        while True:
            before = self.answered_conns
            self.run_for(FIRST_ROUND_STEP_SECONDS)
            complete = self.answered_conns == self.pool.connected
            if complete or self.answered_conns == before or clock() > latest:
                break
        self.first_round = False
        return 0

    cdef int raise_for_outcome(self, Outcome outcome) except -1:
        """Raise the exception for an outcome other than DONE."""
        if outcome == DONE:
            return 0
        if self.failed_conn == NULL:
            raise OSError(self.error, os.strerror(self.error))
        where = f"connection {self.failed_conn.number}"
        done = f"after {self.failed_conn.received} complete echoes"
        if outcome == CONNECTION_CLOSED:
            raise ConnectionAbortedError(
                _errno.ECONNABORTED, f"the server closed {where} {done}, before the next echo"
            )
        if outcome == WRONG_ECHO:
            raise WrongEcho(
                f"{where}: the {'response' if self.fixed_request else 'echo'} of message "
                f"{self.failed_conn.received} is wrong from byte {self.mismatch_at} "
                f"of {self.reply_size}"
            )
        if outcome == EXTRA_DATA:
            raise WrongEcho(f"{where}: the server sent more than it received, {done}")
        raise OSError(self.error, f"{os.strerror(self.error)}: {where} {done}")

    cdef void reset_counts(self) noexcept nogil:
        """Forget what earlier runs measured."""
        cdef uint32_t i
        memset(self.latencies, 0, sizeof(Histogram))
        for i in range(self.pool.count):
            self.conns[i].answered = 0

    cdef uint32_t served(self):
        cdef uint32_t i
        cdef uint32_t served = 0
        for i in range(self.pool.count):
            if self.conns[i].answered:
                served += 1
        return served


cdef class OpenLoad:
    """Connections to one server, to load it several times; a context manager that closes them.

    See run() for the arguments. With `request` (bytes), it is sent instead of messages; `size` is
    not used then, each reply must have `reply_size` bytes and begin with `expected`.
    """

    cdef ConnectionPool pool
    cdef IdleConnections idle_pool
    cdef EchoLoad load
    cdef object depth
    cdef bint started

    def __init__(
        self,
        host="127.0.0.1",
        port=0,
        *,
        unix=None,
        connections,
        size=1,
        depth=1,
        verify=True,
        idle=0,
        request=None,
        expected=b"",
        reply_size=0,
    ):
        if request is not None:
            size = len(request)
        else:
            reply_size = size
        sizes = {"connections": connections, "size": size, "depth": depth, "reply_size": reply_size}
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if idle < 0:
            raise ValueError("idle must be at least 0")
        self.depth = depth
        self.pool = ConnectionPool(connections)
        try:
            check_descriptors(connections + idle)
            self.idle_pool = IdleConnections(host, port, idle, unix=unix)
            self.pool.open(resolve(host, port, unix))
            self.load = EchoLoad(self.pool, size, depth, verify)
            if request is not None:
                self.load.set_request(request, expected, reply_size)
            self.load.prepare()
        except BaseException:
            self.close()
            raise

    def run(self, seconds, warmup=0.1, *, at_start=None, at_end=None):
        """Load the server and return the LoadResult: see run()."""
        if not seconds > 0 or warmup < 0:
            raise ValueError("seconds must be more than 0, warmup at least 0")
        cdef EchoLoad load = self.load
        cdef int64_t started, ended
        load.draining = False
        if not self.started:
            load.await_first_echoes()
            self.started = True
        load.raise_for_outcome(load.send_all())
        load.run_for(warmup)
        load.reset_counts()
        if at_start is not None:
            at_start()
        load.measuring = True
        started = clock()
        load.run_for(seconds)
        ended = clock()
        load.measuring = False
        if at_end is not None:
            at_end()
        # So that the server has no echo to send when its connections end.
        load.draining = True
        if not load.all_answered():
            load.run_for(DRAIN_NS / 1e9)
        return self.result((ended - started) / 1e9)

    cdef object result(self, double elapsed):
        buckets = used_buckets(self.load.latencies)
        total = self.load.latencies.count
        max_us = self.load.latencies.max_ns / 1000.0
        shares = [
            percentile(buckets, share, total, max_us) if total else None
            for share in (0.5, 0.99, 0.999)
        ]
        return LoadResult(
            messages=total,
            seconds=elapsed,
            messages_per_second=total / elapsed,
            p50_us=shares[0],
            p99_us=shares[1],
            p999_us=shares[2],
            max_us=max_us if total else None,
            served=self.load.served(),
            connections=self.pool.count,
            connected=self.pool.connected,
            size=self.load.size,
            depth=self.depth,
            idle=len(self.idle_pool),
            histogram=buckets,
        )

    def close(self):
        """Close all connections. A second call does nothing."""
        self.pool.close_all()
        if self.idle_pool is not None:
            self.idle_pool.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()


def run(
    host="127.0.0.1",
    port=0,
    *,
    unix=None,
    connections,
    size,
    depth=1,
    seconds,
    warmup=0.1,
    verify=True,
    idle=0,
    at_start=None,
    at_end=None,
):
    """Load an echo server and measure it.

    Opens `idle` connections that send nothing and `connections` that each keep `depth` messages of
    `size` bytes in flight. First it waits until every connection has received one echo, or no
    further connection receives its first. Then it runs for `warmup` seconds, then counts complete
    echoes for `seconds`. Connections without an echo are no error (the server may serve one client
    at a time); `served` does not count them. `at_start` and `at_end` are called right before and
    after the measured time.

    Raises OSError with its errno (refused, reset, too few descriptors), ConnectionAbortedError if
    the server closes a connection, WrongEcho if an echo differs from its message, ValueError.
    """
    if not seconds > 0 or warmup < 0:
        raise ValueError("seconds must be more than 0, warmup at least 0")
    with OpenLoad(
        host, port, unix=unix, connections=connections, size=size, depth=depth, verify=verify,
        idle=idle,
    ) as load:
        return load.run(seconds, warmup, at_start=at_start, at_end=at_end)
