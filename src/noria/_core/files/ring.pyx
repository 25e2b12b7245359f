"""A ring of io_uring(7) for files: each request ends in a future of the loop that asked.

- It stands beside the loop's own model, so it serves any loop that can watch a descriptor:
  asyncio's, uvloop's, noria's on every model.
- What is asked in one turn of the loop goes to the kernel in one call at the turn's end, and what
  that call completes at once (cached reads, mostly) is answered without a further one.
- A request keeps the memory that the kernel reads or writes until its completion, whatever becomes
  of the future. Closing cancels and waits; memory of what does not end even then is never freed.
"""

cimport cython
from cpython.buffer cimport PyBUF_CONTIG_RO, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from noria._core.uring.abi cimport *
from noria._core.sys cimport (
    EAGAIN, EBUSY, ECANCELED, EINTR, ETIME, c_close, c_fcntl, c_syscall, errno, iovec,
)

import asyncio
import os
import weakref

cdef enum:
    ENTRIES = 256
    COMPLETIONS = 4096
    STATX_SIZE = 256            # bytes of struct statx, statx(2)
    LINKED = 1 << 2             # IOSQE_IO_LINK: the next begins when this has done all it should
    ASYNC = 1 << 4              # IOSQE_ASYNC: by a thread of the kernel's, without a try before
    LARGE = 1 << 20             # bytes above which copying is not for the loop's thread

cpdef enum Outcome:
    """What a completion is turned into."""
    NOTHING = 0                 # None
    COUNT = 1                   # the number itself: bytes, or a descriptor
    DATA = 2                    # the bytes that were read
    STATUS = 3                  # os.stat_result, out of a struct statx
    OPENED = 4                  # a descriptor, closed again if nobody waits for it any more

rings = weakref.WeakSet()


def forked():
    """In the child of a fork: the ring's memory is shared with the parent, nothing may go there."""
    for ring in list(rings):
        (<Ring>ring).inherit()


os.register_at_fork(after_in_child=forked)


class Pending(asyncio.Future):
    """Of what changes something: cancelling asks the kernel to give up `request`, if there is one,
    and it is done when the kernel is. `came` is what came of it, done or cancelled: (result,
    OSError), one of them or both None."""

    request = ring = None
    given_up = False
    given = (None, None)

    @property
    def came(self):
        # The task may be cancelled once this is done: then it has that, and not `given`.
        if self.cancelled():
            return self.given
        error = self.exception()
        return (None, error) if error is not None else (self.result(), None)

    def cancel(self, msg=None):
        if self.done():
            return False
        if not self.given_up:
            self.given_up = True
            if self.request is not None:
                self.ring.cancel(self.request)
        return True

    def end(self, value, error):
        self.request = self.ring = None
        if self.given_up:
            if error is not None and error.errno in (ECANCELED, EINTR):
                error = None
            self.given = value, error
            super().cancel()
        elif error is not None:
            self.set_exception(error)
        else:
            self.set_result(value)


@cython.final
cdef class Request:
    """One request under way; `future` has its result."""

    cdef readonly object future
    cdef readonly bint ended        # the kernel is done with its memory
    cdef object first               # owns the memory at `addr`
    cdef object second              # owns the memory at the other address
    cdef object filename
    cdef Batch batch
    cdef Py_ssize_t index
    cdef int outcome
    cdef bint pending, viewed       # a Pending is its future
    cdef Py_buffer view

    def __dealloc__(self):
        if self.viewed:
            PyBuffer_Release(&self.view)

    cdef int finish(self, int result) except -1:
        cdef object value, error = None
        self.ended = True
        if result < 0:
            error = failure(-result, self.filename)
            value = None
        elif self.outcome == COUNT or self.outcome == OPENED:
            value = result
        elif self.outcome == DATA:
            value = cut(self.first, result)
        elif self.outcome == STATUS:
            value = status(<bytes>self.first)
        else:
            value = None
        self.first = self.second = None
        if self.viewed:
            self.viewed = False
            PyBuffer_Release(&self.view)
        if self.batch is not None:
            self.batch.one(self.index, value, error)
            self.batch = None
        elif self.pending:
            self.future.end(value, error)
        elif not self.future.done():
            if error is not None:
                self.future.set_exception(error)
            else:
                self.future.set_result(value)
        elif self.outcome == OPENED and result >= 0:
            c_close(result)
        return 0


@cython.final
cdef class Batch:
    """Several requests with one future: it is done when all are, and a list of their results. Where
    they are `linked` that has the OSError of each that failed, and the future is a Pending."""

    cdef readonly object future
    cdef list results
    cdef Py_ssize_t left
    cdef object error
    cdef bint linked

    cdef int one(self, Py_ssize_t index, object value, object error) except -1:
        self.results[index] = value
        if self.linked:
            if error is not None:
                self.results[index] = error
        elif error is not None and self.error is None:
            self.error = error
        self.left -= 1
        if self.left == 0 and self.linked:
            self.future.end(self.results, None)
        elif self.left == 0 and not self.future.done():
            if self.error is not None:
                self.future.set_exception(self.error)
            else:
                self.future.set_result(self.results)
        return 0


@cython.final
cdef class Vector:
    """The memory of several buffers, and where each is: struct iovec, readv(2)."""

    cdef Py_buffer *views
    cdef iovec *places
    cdef Py_ssize_t size            # how many

    def __dealloc__(self):
        cdef Py_ssize_t i
        for i in range(self.size):
            PyBuffer_Release(&self.views[i])
        free(self.views)
        free(self.places)


cdef Vector vector(list buffers, int flags):
    cdef Vector made = Vector.__new__(Vector)
    cdef Py_ssize_t i
    # One more than there are: calloc(0) may give NULL.
    made.views = <Py_buffer *>calloc(len(buffers) + 1, sizeof(Py_buffer))
    made.places = <iovec *>calloc(len(buffers) + 1, sizeof(iovec))
    if made.views == NULL or made.places == NULL:
        raise MemoryError
    for i in range(len(buffers)):
        PyObject_GetBuffer(buffers[i], &made.views[i], flags)
        made.size += 1
        made.places[i].iov_base = made.views[i].buf
        made.places[i].iov_len = made.views[i].len
    return made


cdef object failure(int number, object filename):
    if filename is None:
        return OSError(number, os.strerror(number))
    return OSError(number, os.strerror(number), filename)


cdef inline object cut(object data, Py_ssize_t size):
    return data if size == PyBytes_GET_SIZE(data) else (<bytes>data)[:size]


cdef class Ring:
    """One ring of one loop, used in the thread that runs it. Raises OSError where there is none."""

    cdef object __weakref__
    cdef object loop, create_future, call_soon, flush_
    cdef int ring
    cdef bint initialized
    cdef bint inherited, scheduled
    cdef noria_mapping at
    cdef uint32_t tail, waiting
    cdef readonly Py_ssize_t under_way

    def __cinit__(self, loop):
        cdef noria_params params
        self.ring = -1
        self.initialized = True
        self.loop = loop
        self.create_future, self.call_soon = loop.create_future, loop.call_soon
        self.flush_ = self.flush
        memset(&params, 0, sizeof(noria_params))
        params.cq_entries = COMPLETIONS
        # Not SETUP_DEFER_TASKRUN: with it a loop that sleeps in epoll_wait(2) is not woken by what
        # completes meanwhile. Not SETUP_SINGLE_ISSUER: a loop may run in one thread after another.
        params.flags = (SETUP_CQSIZE | SETUP_SUBMIT_ALL | SETUP_COOP_TASKRUN | SETUP_TASKRUN_FLAG)
        self.ring = <int>c_syscall(SYS_SETUP, <unsigned>ENTRIES, &params)
        if self.ring < 0:
            raise OSError(errno, os.strerror(errno), "io_uring_setup")
        c_fcntl(self.ring, 2, 1)    # F_SETFD, FD_CLOEXEC
        if map_queues(&self.at, self.ring, &params) < 0:
            raise OSError(errno, os.strerror(errno), "io_uring mmap")
        rings.add(self)

    def __dealloc__(self):
        if self.initialized:    # else the arguments were wrong, and 0 is somebody's descriptor
            self.unmap()

    cdef int unmap(self) noexcept:
        if self.ring >= 0:
            c_close(self.ring)
            self.ring = -1
        unmap_queues(&self.at)
        return 0

    cdef int inherit(self) except -1:
        if self.ring >= 0:
            c_close(self.ring)
            self.ring = -1
        self.inherited = True
        return 0

    def fileno(self):
        """The ring's descriptor, readable while there are completions; -1 once closed."""
        return self.ring

    # Requests.

    @cython.final
    cdef int make_room(self, unsigned entries) except -1:
        cdef int tries = 1000
        if self.ring < 0:
            raise RuntimeError("the files of this loop belong to the process that forked this one"
                               if self.inherited else "the loop of this file is closed")
        while self.tail - load32(self.at.sq_head) + entries > self.at.sq_size:
            if tries == 0:
                raise BlockingIOError(EAGAIN, "the kernel takes no more requests for files now")
            tries -= 1
            self.enter(0, NULL)
            self.reap()             # a full completion queue keeps it from taking any, EBUSY
        return 0

    @cython.final
    cdef noria_sqe *entry(self, int opcode, int fd) except NULL:
        cdef noria_sqe *sqe
        self.make_room(1)
        sqe = &self.at.sqes[self.tail & self.at.sq_mask]
        memset(sqe, 0, sizeof(noria_sqe))
        sqe.opcode = opcode
        sqe.fd = fd
        self.tail += 1
        self.waiting += 1
        return sqe

    @cython.final
    cdef noria_sqe *ask(self, Request request, int outcome, int opcode, int fd) except NULL:
        """The entry of a new request; it goes to the kernel at the end of this turn."""
        cdef noria_sqe *sqe = self.entry(opcode, fd)
        request.outcome = outcome
        sqe.user_data = <uint64_t><PyObject *>request
        Py_INCREF(request)
        self.under_way += 1
        if not self.scheduled:
            self.scheduled = True
            self.call_soon(self.flush_)
        return sqe

    cdef Request made(self, bint pending):
        cdef Request request = Request.__new__(Request)
        if pending:
            request.future = Pending(loop=self.loop)
            request.future.request, request.future.ring = request, self
            request.pending = True
        else:
            request.future = self.create_future()
        return request

    def read(self, int fd, uint32_t size, int64_t offset):
        """A request for bytes; -1 as the offset is where the descriptor stands."""
        cdef Request request = self.made(False)
        cdef noria_sqe *sqe
        request.first = PyBytes_FromStringAndSize(NULL, size)
        sqe = self.ask(request, DATA, OP_READ, fd)
        sqe.addr = <uint64_t>PyBytes_AS_STRING(request.first)
        sqe.len = size
        sqe.off = <uint64_t>offset
        if size > LARGE:
            sqe.flags = ASYNC
        return request

    def readinto(self, int fd, buffer, int64_t offset):
        """Into the memory of `buffer`; the count of bytes."""
        return self.transfer(OP_READ, fd, buffer, offset, PyBUF_WRITABLE)

    def write(self, int fd, data, int64_t offset):
        """The count of bytes written: fewer than asked where write(2) may do so."""
        return self.transfer(OP_WRITE, fd, data, offset, PyBUF_CONTIG_RO)

    cdef Request transfer(self, int opcode, int fd, object buffer, int64_t offset, int flags):
        cdef Request request = self.made(True)
        self.ask_for(request, opcode, fd, buffer, offset, flags)
        return request

    cdef noria_sqe *ask_for(self, Request request, int opcode, int fd, object buffer,
                            int64_t offset, int flags) except NULL:
        """The entry of a transfer from or to the memory of `buffer`."""
        cdef noria_sqe *sqe
        PyObject_GetBuffer(buffer, &request.view, flags)
        request.viewed = True
        sqe = self.ask(request, COUNT, opcode, fd)
        sqe.addr = <uint64_t>request.view.buf
        sqe.len = <uint32_t>min(request.view.len, 0x7ffff000)     # MAX_RW_COUNT, read(2)
        sqe.off = <uint64_t>offset
        if sqe.len > LARGE:
            sqe.flags = ASYNC
        return sqe

    def write_and_close(self, int fd, data, int64_t offset):
        """Writes, then closes the descriptor: a Pending of [count or OSError, None or OSError].

        What is not written whole leaves the descriptor open: ECANCELED comes second then.
        """
        cdef Batch batch = Batch.__new__(Batch)
        cdef Request request
        self.make_room(2)           # a chain ends where the kernel is handed what there is
        batch.linked = True
        batch.left = 2
        batch.results = [None, None]
        batch.future = Pending(loop=self.loop)
        request = Request.__new__(Request)
        request.batch, request.index = batch, 0
        self.ask_for(request, OP_WRITE, fd, data, offset, PyBUF_CONTIG_RO).flags |= LINKED
        request = Request.__new__(Request)
        request.batch, request.index = batch, 1
        self.ask(request, NOTHING, OP_CLOSE, fd)
        return batch.future

    def readv(self, int fd, list buffers, int64_t offset):
        """Into the memory of the buffers, one after the other; the count of bytes."""
        return self.scattered(1, fd, vector(buffers, PyBUF_WRITABLE), offset)    # IORING_OP_READV

    def writev(self, int fd, list buffers, int64_t offset):
        """The buffers one after the other; the count of bytes, as `write` gives it."""
        return self.scattered(2, fd, vector(buffers, PyBUF_CONTIG_RO), offset)   # IORING_OP_WRITEV

    cdef Request scattered(self, int opcode, int fd, Vector places, int64_t offset):
        cdef Request request = self.made(True)
        cdef noria_sqe *sqe
        request.first = places
        sqe = self.ask(request, COUNT, opcode, fd)
        sqe.addr = <uint64_t>places.places
        sqe.len = <uint32_t>min(places.size, 0xffff)    # more than 1024 (IOV_MAX) are EINVAL
        sqe.off = <uint64_t>offset
        return request

    def read_many(self, int fd, list ranges):
        """[(offset, size)]: a future of the list of their bytes."""
        cdef Batch batch = Batch.__new__(Batch)
        cdef Request request
        cdef noria_sqe *sqe
        cdef Py_ssize_t i
        cdef int64_t offset
        cdef uint32_t size
        batch.future = self.create_future()
        batch.left = len(ranges)
        batch.results = [None] * batch.left
        if not ranges:
            batch.future.set_result([])
        for i, (offset, size) in enumerate(ranges):
            request = Request.__new__(Request)
            request.batch, request.index = batch, i
            request.first = PyBytes_FromStringAndSize(NULL, size)
            sqe = self.ask(request, DATA, OP_READ, fd)
            sqe.addr = <uint64_t>PyBytes_AS_STRING(request.first)
            sqe.len = size
            sqe.off = <uint64_t>offset
        return batch.future

    def call(self, int opcode, int outcome, int fd=-1, first=None, uint32_t length=0, second=None,
             int64_t offset=0, uint32_t flags=0, filename=None):
        """Any other request. `first` and `second` are bytes whose addresses go where the opcode
        wants two paths, or a path and a buffer (io_uring_enter(2))."""
        cdef Request request = self.made(outcome != OPENED)
        cdef noria_sqe *sqe
        request.first, request.second, request.filename = first, second, filename
        sqe = self.ask(request, outcome, opcode, fd)
        if first is not None:
            sqe.addr = <uint64_t>PyBytes_AS_STRING(<bytes>first)
        sqe.len = length
        sqe.off = (<uint64_t>offset if second is None
                   else <uint64_t>PyBytes_AS_STRING(<bytes>second))
        sqe.op_flags = flags
        return request

    def stat(self, int fd, bytes path not None, uint32_t flags, filename):
        """os.stat_result of a path, statx(2)."""
        cdef Request request = self.made(False)
        cdef noria_sqe *sqe
        request.first, request.second = PyBytes_FromStringAndSize(NULL, STATX_SIZE), path
        request.filename = filename
        sqe = self.ask(request, STATUS, 21, fd)                   # IORING_OP_STATX
        sqe.addr = <uint64_t>PyBytes_AS_STRING(path)
        sqe.len = 0x7ff                                           # STATX_BASIC_STATS
        sqe.off = <uint64_t>PyBytes_AS_STRING(request.first)
        sqe.op_flags = flags
        return request

    def cancel(self, Request request not None):
        """Asks the kernel to give it up, at once. It may be too late: the completion tells."""
        cdef noria_sqe *sqe
        if not request.ended and self.ring >= 0:
            sqe = self.entry(OP_ASYNC_CANCEL, -1)
            sqe.addr = <uint64_t><PyObject *>request
            self.flush()

    # Completions.

    def flush(self):
        """Hands over what waits, and answers what is complete."""
        self.scheduled = False
        if self.ring < 0:
            return
        if self.waiting or load32(self.at.sq_flags) & (SQ_TASKRUN | SQ_CQ_OVERFLOW):
            self.enter(0, NULL)
        self.reap()
        if self.waiting and not self.scheduled:     # the kernel was interrupted or short of memory
            self.scheduled = True
            self.call_soon(self.flush_)

    def completed(self):
        """The ring's descriptor is readable: the completions are there already."""
        if self.ring >= 0:
            if load32(self.at.sq_flags) & (SQ_TASKRUN | SQ_CQ_OVERFLOW):
                self.enter(0, NULL)
            self.reap()

    cdef int enter(self, unsigned least, noria_timespec *timeout) except -1:
        cdef noria_getevents_arg arg
        cdef int r, error
        store32(self.at.sq_tail, self.tail)
        memset(&arg, 0, sizeof(arg))
        arg.ts = <uint64_t>timeout
        with nogil:
            r = <int>c_syscall(SYS_ENTER, self.ring, self.waiting, least,
                               ENTER_GETEVENTS | ENTER_EXT_ARG, &arg, sizeof(arg))
            error = errno
        self.waiting = self.tail - load32(self.at.sq_head)
        if r < 0:
            if error == EINTR:
                PyErr_CheckSignals()
            elif error != ETIME and error != EAGAIN and error != EBUSY:
                raise OSError(error, os.strerror(error), "io_uring_enter")
        return 0

    cdef int reap(self) except -1:
        cdef uint32_t head = self.at.cq_head[0]
        cdef noria_cqe *cqe
        cdef Request request
        cdef int result
        while head != load32(self.at.cq_tail):
            cqe = &self.at.cqes[head & self.at.cq_mask]
            head += 1
            if cqe.user_data == 0:
                store32(self.at.cq_head, head)
                continue
            request = <Request><PyObject *>cqe.user_data
            result = cqe.res
            store32(self.at.cq_head, head)
            self.under_way -= 1
            Py_DECREF(request)
            request.finish(result)
        return 0

    def close(self):
        """Cancels all that is under way and waits until the kernel has let go of its memory: at
        once for what waits for another (a pipe, a terminal), for one second at most for a disk,
        whose reads cannot be given up once begun. A network's file system may take minutes."""
        cdef noria_timespec limit
        cdef noria_sqe *sqe
        cdef int tries = 50
        if self.ring < 0:
            return
        if self.under_way:
            sqe = self.entry(OP_ASYNC_CANCEL, -1)
            sqe.op_flags = CANCEL_ANY | CANCEL_ALL
        while self.under_way and tries:
            limit.tv_sec, limit.tv_nsec = 0, 20000000
            self.enter(1, &limit)
            self.reap()
            tries -= 1
        # What still is under way keeps its request, and so its memory, for ever.
        self.unmap()


cdef inline uint32_t u32(const char *p) noexcept:
    return (<const uint32_t *>p)[0]


cdef inline int64_t i64(const char *p) noexcept:
    return (<const int64_t *>p)[0]


cdef object status(bytes raw):
    """os.stat_result of a struct statx (statx(2): the offsets are ABI)."""
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
