"""File operations on a ring of io_uring(7): each request completes a future of the loop.

- The ring works beside the loop's own model, so it serves every loop that can watch a descriptor:
  asyncio's, uvloop's, noria's on every model.
- Requests made in one turn of the loop go to the kernel in one io_uring_enter(2) at the end of the
  turn. Those that complete in that call (mostly cached reads) need no further call.
- A request owns the memory that the kernel reads or writes until its completion, even if the future
  is cancelled. Closing the ring cancels all requests and waits; the memory of a request that does
  not complete even then is never freed.
"""

cimport cython
from cpython.buffer cimport PyBUF_CONTIG_RO, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from noria._core.contract cimport Model
from noria._core.loop cimport Loop
from noria._core.recorder.events cimport RecordKind
from noria._core.recorder.record cimport record
from noria._core.uring.abi cimport *
from noria._core.uring.ring cimport (
    Ring, ring_close, ring_close_in_child, ring_enter, ring_needs_enter, ring_next_sqe,
    ring_setup, ring_sq_used,
)
from noria._core.sys cimport EAGAIN, ECANCELED, EINTR, c_close, iovec

import asyncio
import os
import weakref

cdef enum:
    ENTRIES = 256
    COMPLETIONS = 4096
    MAX_SUBMIT_ATTEMPTS = 1000      # for room in a full submission queue
    CLOSE_WAIT_NS = 20000000        # of one wait for cancelled requests
    MAX_CLOSE_WAITS = 50            # one second in all
    AT_FDCWD = -100                 # paths are relative to the working directory, openat(2)
    STATX_BASIC_STATS = 0x7ff
    STATX_BYTES = 256               # struct statx, statx(2)
    MAX_RW_COUNT = 0x7ffff000       # bytes that the kernel transfers in one call, read(2)
    MAX_VECTORS = 0xffff            # the kernel refuses more than 1024 (IOV_MAX) with EINVAL
    MIN_ASYNC_BYTES = 1 << 20       # larger copies run in a kernel worker, not in the loop's thread

cdef enum ResultKind:
    """What a completion's result is converted to."""
    RESULT_NONE
    RESULT_NUMBER               # the number itself: a count of bytes
    RESULT_BYTES                # the bytes that were read
    RESULT_STAT                 # os.stat_result of a struct statx
    RESULT_FD                   # a new descriptor; closed if the future was cancelled

open_rings = weakref.WeakSet()


def close_in_child():
    """Close the rings' descriptors in a fork's child; their memory is shared with the parent."""
    for ring in list(open_rings):
        (<FileRing>ring).close_in_child()


os.register_at_fork(after_in_child=close_in_child)


class CompletionFuture(asyncio.Future):
    """The future of a request that changes something: done when the kernel is done with it.

    `cancel()` asks the kernel to cancel `request`, if there is one; the future stays pending until
    the completion. It is cancelled then, whatever the request did: see `outcome`.
    """

    request = ring = None
    cancel_requested = False
    outcome_if_cancelled = (None, None)

    @property
    def outcome(self):
        """(result, OSError) of the request, one or both of them None. Of a done future.

        Also if the task was cancelled after the future was done.
        """
        if self.cancelled():
            return self.outcome_if_cancelled
        error = self.exception()
        return (None, error) if error is not None else (self.result(), None)

    def cancel(self, msg=None):
        if self.done():
            return False
        if not self.cancel_requested:
            self.cancel_requested = True
            if self.request is not None:
                self.ring.cancel(self.request)
        return True

    def complete(self, value, error):
        self.request = self.ring = None
        if self.cancel_requested:
            if error is not None and error.errno in (ECANCELED, EINTR):
                error = None
            self.outcome_if_cancelled = value, error
            super().cancel()
        elif error is not None:
            self.set_exception(error)
        else:
            self.set_result(value)


@cython.final
cdef class Request:
    """A request in flight; `future` has its result."""

    cdef readonly object future
    cdef readonly bint completed    # the kernel no longer uses its memory
    cdef object memory              # owns what the kernel reads or writes
    cdef object path                # of an operation on a name
    cdef object filename            # for the OSError
    cdef Batch batch
    cdef Py_ssize_t index           # in the batch
    cdef int result_kind
    cdef bint has_completion_future
    cdef bint has_view
    cdef Py_buffer view

    def __dealloc__(self):
        if self.has_view:
            PyBuffer_Release(&self.view)

    cdef int complete(self, int result) except -1:
        cdef object value, error = None
        self.completed = True
        if result < 0:
            error = os_error(-result, self.filename)
            value = None
        elif self.result_kind == RESULT_NUMBER or self.result_kind == RESULT_FD:
            value = result
        elif self.result_kind == RESULT_BYTES:
            value = shortened(self.memory, result)
        elif self.result_kind == RESULT_STAT:
            value = stat_result(<bytes>self.memory)
        else:
            value = None
        self.memory = self.path = None
        if self.has_view:
            self.has_view = False
            PyBuffer_Release(&self.view)
        if self.batch is not None:
            self.batch.complete(self.index, value, error)
            self.batch = None
        elif self.has_completion_future:
            self.future.complete(value, error)
        elif not self.future.done():
            if error is not None:
                self.future.set_exception(error)
            else:
                self.future.set_result(value)
        elif self.result_kind == RESULT_FD and result >= 0:
            c_close(result)
        return 0


@cython.final
cdef class Batch:
    """Requests that share a future, whose result is the list of their results.

    If one fails, the future has its OSError. In a `linked` batch the future is a CompletionFuture,
    and the list has the OSErrors in the places of the failed requests.
    """

    cdef readonly object future
    cdef list results
    cdef Py_ssize_t in_flight
    cdef object error
    cdef bint linked

    cdef int complete(self, Py_ssize_t index, object value, object error) except -1:
        self.results[index] = value
        if self.linked:
            if error is not None:
                self.results[index] = error
        elif error is not None and self.error is None:
            self.error = error
        self.in_flight -= 1
        if self.in_flight == 0 and self.linked:
            self.future.complete(self.results, None)
        elif self.in_flight == 0 and not self.future.done():
            if self.error is not None:
                self.future.set_exception(self.error)
            else:
                self.future.set_result(self.results)
        return 0


@cython.final
cdef class Vector:
    """The memory of several buffers, as an array of struct iovec: readv(2)."""

    cdef Py_buffer *views
    cdef iovec *vectors
    cdef Py_ssize_t count

    def __dealloc__(self):
        cdef Py_ssize_t i
        for i in range(self.count):
            PyBuffer_Release(&self.views[i])
        free(self.views)
        free(self.vectors)


cdef Vector new_vector(list buffers, int flags):
    cdef Vector vector = Vector.__new__(Vector)
    cdef Py_ssize_t i
    # One more than there are: calloc(0) may return NULL.
    vector.views = <Py_buffer *>calloc(len(buffers) + 1, sizeof(Py_buffer))
    vector.vectors = <iovec *>calloc(len(buffers) + 1, sizeof(iovec))
    if vector.views == NULL or vector.vectors == NULL:
        raise MemoryError
    for i in range(len(buffers)):
        PyObject_GetBuffer(buffers[i], &vector.views[i], flags)
        vector.count += 1
        vector.vectors[i].iov_base = vector.views[i].buf
        vector.vectors[i].iov_len = vector.views[i].len
    return vector


cdef object os_error(int number, object filename):
    if filename is None:
        return OSError(number, os.strerror(number))
    return OSError(number, os.strerror(number), filename)


cdef inline object shortened(object data, Py_ssize_t size):
    return data if size == PyBytes_GET_SIZE(data) else (<bytes>data)[:size]


cdef class FileRing:
    """The ring of one loop, for the thread that runs the loop. Raises OSError if it is refused.

    A method that makes a request returns a `Request`, or a future where its docstring says so. An
    offset of -1 is the descriptor's own position.
    """

    cdef object __weakref__
    cdef object loop, create_future, call_soon, flush_method
    cdef Model model                # of noria's loop, whose recorder gets the records; or None
    cdef bint initialized           # __cinit__ has set the descriptor
    cdef bint inherited             # this process is a fork's child
    cdef bint flush_scheduled
    cdef Ring ring
    cdef readonly Py_ssize_t in_flight

    def __cinit__(self, loop):
        self.ring.fd = -1
        self.initialized = True
        self.loop = loop
        self.create_future, self.call_soon = loop.create_future, loop.call_soon
        self.flush_method = self.flush
        self.model = (<Loop>loop).model if isinstance(loop, Loop) else None
        # Without SETUP_DEFER_TASKRUN: with it, a completion does not wake a loop that sleeps in
        # epoll_wait(2). Without SETUP_SINGLE_ISSUER: a loop may run in one thread after another.
        ring_setup(&self.ring, ENTRIES, COMPLETIONS, SETUP_COOP_TASKRUN)
        open_rings.add(self)

    def __dealloc__(self):
        if self.initialized:    # else the descriptor is 0, which is not a ring
            ring_close(&self.ring)

    cdef int close_in_child(self) except -1:
        ring_close_in_child(&self.ring)
        self.inherited = True
        return 0

    def fileno(self):
        """The ring's descriptor, readable while there are completions; -1 once closed."""
        return self.ring.fd

    # Requests.

    @cython.final
    cdef int make_room(self, unsigned entries) except -1:
        """Make sure of room for so many submission entries.

        Raises BlockingIOError if the kernel takes none, RuntimeError without a ring.
        """
        cdef int attempts = MAX_SUBMIT_ATTEMPTS
        if self.ring.fd < 0:
            raise RuntimeError("a file of the parent process cannot be used after a fork: open it "
                               "in the child" if self.inherited
                               else "the event loop of this file is closed")
        while ring_sq_used(&self.ring) + entries > self.ring.queues.sq_size:
            if attempts == 0:
                raise BlockingIOError(EAGAIN, "the kernel accepts no more file operations now")
            attempts -= 1
            ring_enter(&self.ring, 0, NULL, True)
            # While the completion queue is full the kernel takes no entries (EBUSY).
            self.reap()
        return 0

    @cython.final
    cdef noria_sqe *submit(self, Request request, int result_kind, int opcode, int fd) except NULL:
        """The entry of a new request, which goes to the kernel at the end of this turn."""
        cdef noria_sqe *sqe
        self.make_room(1)
        sqe = ring_next_sqe(&self.ring, opcode, fd)
        request.result_kind = result_kind
        sqe.user_data = <uint64_t><PyObject *>request
        Py_INCREF(request)
        self.in_flight += 1
        if self.model is not None and self.model.recorder != NULL:
            record(self.model.recorder, RecordKind.FILE_BEGIN, sqe.user_data, opcode)
        if not self.flush_scheduled:
            self.flush_scheduled = True
            self.call_soon(self.flush_method)
        return sqe

    cdef Request new_request(self):
        """A request with a plain future: for what changes nothing, or can be undone."""
        cdef Request request = Request.__new__(Request)
        request.future = self.create_future()
        return request

    cdef Request new_change(self):
        """A request with a CompletionFuture."""
        cdef Request request = Request.__new__(Request)
        request.future = CompletionFuture(loop=self.loop)
        request.future.request, request.future.ring = request, self
        request.has_completion_future = True
        return request

    @cython.final
    cdef int submit_read(self, Request request, int fd, uint32_t size, int64_t offset,
                         unsigned flags) except -1:
        """Read into a new bytes object, which is the result."""
        cdef noria_sqe *sqe
        request.memory = PyBytes_FromStringAndSize(NULL, size)
        sqe = self.submit(request, RESULT_BYTES, OP_READ, fd)
        sqe.addr = <uint64_t>PyBytes_AS_STRING(request.memory)
        sqe.len = size
        sqe.off = <uint64_t>offset
        sqe.flags = flags
        return 0

    def read(self, int fd, uint32_t size, int64_t offset):
        """Read at most `size` bytes; the result is the bytes."""
        cdef Request request = self.new_request()
        self.submit_read(request, fd, size, offset, SQE_ASYNC if size > MIN_ASYNC_BYTES else 0)
        return request

    def read_many(self, int fd, list ranges):
        """Read each (offset, size) of `ranges`; returns a future of the list of their bytes."""
        cdef Batch batch = Batch.__new__(Batch)
        cdef Request request
        cdef Py_ssize_t i
        cdef int64_t offset
        cdef uint32_t size
        batch.future = self.create_future()
        batch.in_flight = len(ranges)
        batch.results = [None] * batch.in_flight
        if not ranges:
            batch.future.set_result([])
        for i, (offset, size) in enumerate(ranges):
            request = Request.__new__(Request)
            request.batch, request.index = batch, i
            self.submit_read(request, fd, size, offset, 0)
        return batch.future

    def readinto(self, int fd, buffer, int64_t offset):
        """Read into the memory of `buffer`; the result is the count of bytes."""
        cdef Request request = self.new_change()
        self.submit_transfer(request, OP_READ, fd, buffer, offset, PyBUF_WRITABLE)
        return request

    def write(self, int fd, data, int64_t offset):
        """Write `data`; the result is the count of bytes, which may be fewer: write(2)."""
        cdef Request request = self.new_change()
        self.submit_transfer(request, OP_WRITE, fd, data, offset, PyBUF_CONTIG_RO)
        return request

    @cython.final
    cdef noria_sqe *submit_transfer(self, Request request, int opcode, int fd, object buffer,
                                    int64_t offset, int flags) except NULL:
        """Read or write the memory of `buffer`; the result is the count of bytes."""
        cdef noria_sqe *sqe
        PyObject_GetBuffer(buffer, &request.view, flags)
        request.has_view = True
        sqe = self.submit(request, RESULT_NUMBER, opcode, fd)
        sqe.addr = <uint64_t>request.view.buf
        sqe.len = <uint32_t>min(request.view.len, MAX_RW_COUNT)
        sqe.off = <uint64_t>offset
        if sqe.len > MIN_ASYNC_BYTES:
            sqe.flags = SQE_ASYNC
        return sqe

    def write_and_close(self, int fd, data, int64_t offset):
        """Write `data`, and close the descriptor if all of it was written.

        Returns a CompletionFuture of [count of bytes or OSError, None or OSError]. After a short or
        failed write the descriptor is open, and the second is an OSError with ECANCELED.
        """
        cdef Batch batch = Batch.__new__(Batch)
        cdef Request request
        # The kernel ends a chain where one submission ends: both entries must be in the same.
        self.make_room(2)
        batch.linked = True
        batch.in_flight = 2
        batch.results = [None, None]
        batch.future = CompletionFuture(loop=self.loop)
        request = Request.__new__(Request)
        request.batch, request.index = batch, 0
        self.submit_transfer(request, OP_WRITE, fd, data, offset,
                             PyBUF_CONTIG_RO).flags |= SQE_IO_LINK
        request = Request.__new__(Request)
        request.batch, request.index = batch, 1
        self.submit(request, RESULT_NONE, OP_CLOSE, fd)
        return batch.future

    def readv(self, int fd, list buffers, int64_t offset):
        """Fill the buffers one after the other; the result is the count of bytes."""
        return self.submit_vector(OP_READV, fd, new_vector(buffers, PyBUF_WRITABLE), offset)

    def writev(self, int fd, list buffers, int64_t offset):
        """Write the buffers one after the other; the result is the count of bytes, as of write."""
        return self.submit_vector(OP_WRITEV, fd, new_vector(buffers, PyBUF_CONTIG_RO), offset)

    cdef Request submit_vector(self, int opcode, int fd, Vector vector, int64_t offset):
        cdef Request request = self.new_change()
        cdef noria_sqe *sqe
        request.memory = vector
        sqe = self.submit(request, RESULT_NUMBER, opcode, fd)
        sqe.addr = <uint64_t>vector.vectors
        sqe.len = <uint32_t>min(vector.count, MAX_VECTORS)
        sqe.off = <uint64_t>offset
        return request

    def fsync(self, int fd, bint data_only):
        """fsync(2), or fdatasync(2) if `data_only`."""
        cdef Request request = self.new_change()
        self.submit(request, RESULT_NONE, OP_FSYNC, fd).op_flags = (
            FSYNC_DATASYNC if data_only else 0)
        return request

    def close_fd(self, int fd):
        """close(2)."""
        cdef Request request = self.new_change()
        self.submit(request, RESULT_NONE, OP_CLOSE, fd)
        return request

    # Paths are bytes that end with a NUL. `filename` is for the OSError.

    @cython.final
    cdef noria_sqe *submit_path(self, Request request, int result_kind, int opcode, bytes path,
                                filename) except NULL:
        """A request for a path relative to the working directory."""
        cdef noria_sqe *sqe
        request.path, request.filename = path, filename
        sqe = self.submit(request, result_kind, opcode, AT_FDCWD)
        sqe.addr = <uint64_t>PyBytes_AS_STRING(path)
        return sqe

    def openat(self, bytes path not None, uint32_t flags, uint32_t mode, filename):
        """openat(2); the result is the descriptor."""
        cdef Request request = self.new_request()
        cdef noria_sqe *sqe = self.submit_path(request, RESULT_FD, OP_OPENAT, path, filename)
        sqe.op_flags = flags
        sqe.len = mode
        return request

    def statx(self, bytes path not None, uint32_t flags, filename):
        """statx(2); the result is an os.stat_result."""
        cdef Request request = self.new_request()
        cdef noria_sqe *sqe
        request.memory = PyBytes_FromStringAndSize(NULL, STATX_BYTES)
        sqe = self.submit_path(request, RESULT_STAT, OP_STATX, path, filename)
        sqe.off = <uint64_t>PyBytes_AS_STRING(request.memory)
        sqe.op_flags = flags
        sqe.len = STATX_BASIC_STATS
        return request

    def unlinkat(self, bytes path not None, uint32_t flags, filename):
        """unlinkat(2)."""
        cdef Request request = self.new_change()
        self.submit_path(request, RESULT_NONE, OP_UNLINKAT, path, filename).op_flags = flags
        return request

    def mkdirat(self, bytes path not None, uint32_t mode, filename):
        """mkdirat(2)."""
        cdef Request request = self.new_change()
        self.submit_path(request, RESULT_NONE, OP_MKDIRAT, path, filename).len = mode
        return request

    def renameat(self, bytes source not None, bytes target not None):
        """renameat(2). The OSError has no file names."""
        cdef Request request = self.new_change()
        cdef noria_sqe *sqe
        request.memory = target
        sqe = self.submit_path(request, RESULT_NONE, OP_RENAMEAT, source, None)
        sqe.off = <uint64_t>PyBytes_AS_STRING(target)       # addr2
        sqe.len = <uint32_t>AT_FDCWD                        # the directory of addr2
        return request

    def cancel(self, Request request not None):
        """Ask the kernel, at once, to cancel a request; the completion says if it was too late."""
        if not request.completed and self.ring.fd >= 0:
            self.make_room(1)
            ring_next_sqe(&self.ring, OP_ASYNC_CANCEL, -1).addr = <uint64_t><PyObject *>request
            self.flush()

    # Completions.

    def flush(self):
        """Submit all requests, and complete those that the kernel has completed."""
        self.flush_scheduled = False
        if self.ring.fd < 0:
            return
        if self.ring.to_submit or ring_needs_enter(&self.ring):
            ring_enter(&self.ring, 0, NULL, True)
        self.reap()
        # The kernel was interrupted or short of memory: retry in the next turn.
        if self.ring.to_submit and not self.flush_scheduled:
            self.flush_scheduled = True
            self.call_soon(self.flush_method)

    def on_readable(self):
        """Complete what the kernel has completed; for when the ring's descriptor is readable."""
        if self.ring.fd >= 0:
            if ring_needs_enter(&self.ring):
                ring_enter(&self.ring, 0, NULL, True)
            self.reap()

    @cython.final
    cdef int reap(self) except -1:
        """Take all completions from the queue and complete their requests."""
        cdef uint32_t head = self.ring.queues.cq_head[0]
        cdef noria_cqe *cqe
        cdef Request request
        cdef int result
        while head != load32(self.ring.queues.cq_tail):
            cqe = &self.ring.queues.cqes[head & self.ring.queues.cq_mask]
            head += 1
            if cqe.user_data == 0:      # of a cancel request
                store32(self.ring.queues.cq_head, head)
                continue
            request = <Request><PyObject *>cqe.user_data
            result = cqe.res
            store32(self.ring.queues.cq_head, head)
            self.in_flight -= 1
            if self.model is not None and self.model.recorder != NULL:
                record(self.model.recorder, RecordKind.FILE_END, <size_t><void *>request, result)
            Py_DECREF(request)
            request.complete(result)
        return 0

    def close(self):
        """Cancel all requests, wait until the kernel no longer uses their memory, and close.

        Requests that wait for another process (a pipe, a terminal) end at once. A disk's read
        cannot be cancelled once it has begun, and is waited for, one second at most. On a network
        file system it may take minutes: the memory of such a request is never freed.
        """
        cdef noria_timespec timeout
        cdef int waits = MAX_CLOSE_WAITS
        if self.ring.fd < 0:
            return
        if self.in_flight:
            self.make_room(1)
            ring_next_sqe(&self.ring, OP_ASYNC_CANCEL, -1).op_flags = CANCEL_ANY | CANCEL_ALL
        while self.in_flight and waits:
            timeout.tv_sec, timeout.tv_nsec = 0, CLOSE_WAIT_NS
            ring_enter(&self.ring, 1, &timeout, True)
            self.reap()
            waits -= 1
        ring_close(&self.ring)


cdef inline uint32_t u32(const char *p) noexcept:
    return (<const uint32_t *>p)[0]


cdef inline int64_t i64(const char *p) noexcept:
    return (<const int64_t *>p)[0]


cdef object stat_result(bytes raw):
    """The os.stat_result of a struct statx; its offsets are ABI, statx(2)."""
    cdef const char *p = PyBytes_AS_STRING(raw)
    cdef int64_t atime = i64(p + 64) * 1000000000 + u32(p + 72)
    cdef int64_t ctime = i64(p + 96) * 1000000000 + u32(p + 104)
    cdef int64_t mtime = i64(p + 112) * 1000000000 + u32(p + 120)
    return os.stat_result((
        u32(p + 28) & 0xffff, i64(p + 32), os.makedev(u32(p + 136), u32(p + 140)),
        u32(p + 16), u32(p + 20), u32(p + 24), i64(p + 40),
        i64(p + 64), i64(p + 112), i64(p + 96),
        i64(p + 64) + 1e-9 * u32(p + 72), i64(p + 112) + 1e-9 * u32(p + 120),
        i64(p + 96) + 1e-9 * u32(p + 104), atime, mtime, ctime,
        u32(p + 4), i64(p + 48), os.makedev(u32(p + 128), u32(p + 132)),
    ))
