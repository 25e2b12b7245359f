"""Stream readers and writers, compiled where asyncio's run for each message.

Mixed with asyncio's own StreamReader, StreamWriter and StreamReaderProtocol: what is here is the
way that a message takes when all is well. Ends, faults and limits that are passed are left to
asyncio's methods, which look at the same fields.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE, PyByteArray_Resize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memchr, memcpy

from noria._core.transport cimport DirectProtocol

import asyncio

cdef object InheritedReader = asyncio.StreamReader
cdef object InheritedWriter = asyncio.StreamWriter


cdef class Reader:
    """The compiled half of a stream reader."""

    cdef bytearray kept
    cdef bytes whole                # what came last, if nothing is kept before it
    cdef bint any                   # whoever waits takes what comes, as it comes
    # asyncio's names: its half sets and reads them too.
    cdef public Py_ssize_t _limit
    cdef public object _loop
    cdef public object _waiter
    cdef public object _exception
    cdef public object _transport
    cdef public bint _eof
    cdef public bint _paused

    @property
    def _buffer(self):
        """All that came and was not read, for asyncio's half: it may change it."""
        self.join()
        return self.kept

    @_buffer.setter
    def _buffer(self, bytearray kept):
        self.kept = kept
        self.whole = None

    cdef Py_ssize_t size(self) noexcept:
        if self.whole is not None:
            return PyBytes_GET_SIZE(self.whole)
        return PyByteArray_GET_SIZE(self.kept)

    cdef int join(self) except -1:
        cdef bytes whole = self.whole
        if whole is not None:
            self.whole = None
            self.append(PyBytes_AS_STRING(whole), PyBytes_GET_SIZE(whole))
        return 0

    cdef int append(self, const char *data, Py_ssize_t n) except -1:
        cdef Py_ssize_t before = PyByteArray_GET_SIZE(self.kept)
        PyByteArray_Resize(self.kept, before + n)
        memcpy(PyByteArray_AS_STRING(self.kept) + before, data, n)
        return 0

    cdef int take_in(self, const char *data, Py_ssize_t n) except -1:
        """Bytes that came: kept, and whoever waits for them is woken."""
        if self.any and self.size() == 0:
            return self.take_bytes(PyBytes_FromStringAndSize(data, n))
        self.refuse_after_end()
        self.join()
        self.append(data, n)
        return self.came()

    cdef int take_bytes(self, bytes data) except -1:
        """The same, without a copy where somebody is about to take all of it."""
        self.refuse_after_end()
        if self.size():
            self.join()
            self.append(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        else:
            self.whole = data
        return self.came()

    cdef int refuse_after_end(self) except -1:
        if self._eof:
            raise AssertionError("feed_data after feed_eof")
        return 0

    cdef int came(self) except -1:
        if self._waiter is not None and self.size():
            waiter, self._waiter = self._waiter, None
            if not waiter.done():
                waiter.set_result(None)
        if self.size() > 2 * self._limit and not self._paused and self._transport is not None:
            self.hold_back()
        return 0

    cdef int hold_back(self) except -1:
        try:
            self._transport.pause_reading()
        except NotImplementedError:
            self._transport = None      # it cannot: all has to be kept
        else:
            self._paused = True
        return 0

    cdef bytes take_out(self, Py_ssize_t n):
        """The first n bytes; reading goes on below once there is room."""
        cdef bytes data = self.whole
        if data is not None and n == PyBytes_GET_SIZE(data):
            self.whole = None
        else:
            self.join()
            data = PyBytes_FromStringAndSize(PyByteArray_AS_STRING(self.kept), n)
            if n == PyByteArray_GET_SIZE(self.kept):
                PyByteArray_Resize(self.kept, 0)
            else:
                del self.kept[:n]
        if self._paused and self.size() <= self._limit:
            self._paused = False
            self._transport.resume_reading()
        return data

    cdef object begin_waiting(self, str method):
        if self._waiter is not None:
            raise RuntimeError(f"{method}() called while another coroutine is already waiting for "
                               "incoming data")
        if self._paused:
            # Whoever waits for more than the limit would wait for ever.
            self._paused = False
            self._transport.resume_reading()
        self._waiter = self._loop.create_future()
        return self._waiter

    def feed_data(self, data):
        """Bytes for whoever reads."""
        self.take_bytes(data if type(data) is bytes else bytes(data))

    async def read(self, n=-1):
        """At most `n` bytes, at least one; b"" at the end. As asyncio.StreamReader.read."""
        cdef Py_ssize_t wanted = n
        if self._exception is not None:
            raise self._exception
        if wanted <= 0:
            return await InheritedReader.read(self, n)
        if not self.size() and not self._eof:
            waiter = self.begin_waiting("read")
            self.any = True
            try:
                await waiter
            finally:
                self._waiter = None
                self.any = False
        return self.take_out(min(wanted, self.size()))

    async def readexactly(self, n):
        """Exactly `n` bytes. As asyncio.StreamReader.readexactly."""
        cdef Py_ssize_t wanted = n
        if self._exception is not None or wanted <= 0:
            return await InheritedReader.readexactly(self, n)
        while self.size() < wanted:
            if self._eof:
                return await InheritedReader.readexactly(self, n)
            waiter = self.begin_waiting("readexactly")
            try:
                await waiter
            finally:
                self._waiter = None
        return self.take_out(wanted)

    async def readline(self):
        """A line with its end, or what is left. As asyncio.StreamReader.readline."""
        cdef Py_ssize_t looked = 0
        cdef Py_ssize_t found
        if self._exception is not None:
            raise self._exception
        while True:
            found = self.find(b"\n", looked)
            if 0 <= found <= self._limit:
                return self.take_out(found + 1)
            looked = self.size()
            if found >= 0 or self._eof or looked > self._limit:
                return await InheritedReader.readline(self)
            waiter = self.begin_waiting("readuntil")
            try:
                await waiter
            finally:
                self._waiter = None

    async def readuntil(self, separator=b"\n"):
        """Bytes up to and with the separator. As asyncio.StreamReader.readuntil."""
        cdef Py_ssize_t looked = 0
        cdef Py_ssize_t found, length
        cdef bytes end
        if type(separator) is not bytes or not separator:
            return await InheritedReader.readuntil(self, separator)
        if self._exception is not None:
            raise self._exception
        end = separator
        length = PyBytes_GET_SIZE(end)
        while True:
            found = self.find(end, looked)
            if 0 <= found <= self._limit:
                return self.take_out(found + length)
            # The last bytes may be the separator's first.
            looked = max(0, self.size() + 1 - length)
            if found >= 0 or self._eof or looked > self._limit:
                return await InheritedReader.readuntil(self, separator)
            waiter = self.begin_waiting("readuntil")
            try:
                await waiter
            finally:
                self._waiter = None

    cdef Py_ssize_t find(self, bytes end, Py_ssize_t start) except -2:
        cdef char *base
        cdef char *place
        self.join()
        if PyBytes_GET_SIZE(end) > 1:
            return self.kept.find(end, start)
        if start >= PyByteArray_GET_SIZE(self.kept):
            return -1       # somebody else has read meanwhile
        base = PyByteArray_AS_STRING(self.kept)
        place = <char *>memchr(base + start, PyBytes_AS_STRING(end)[0],
                               self.size() - start)
        return -1 if place == NULL else place - base


cdef class Feed(DirectProtocol):
    """The compiled half of the protocol between a transport and its reader."""

    cdef public object _stream_reader_wr
    cdef public bint _paused
    cdef public bint _connection_lost

    def __cinit__(self, *args, **kwargs):
        self.wants_objects = True
        # A subclass may have a data_received of its own: it is called then, as in asyncio.
        self.enabled = type(self).data_received is Feed.data_received

    cdef int feed(self, const char *data, Py_ssize_t n) except -1:
        cdef object reader
        if self._stream_reader_wr is None:
            return 0
        reader = self._stream_reader_wr()
        if isinstance(reader, Reader):
            (<Reader>reader).take_in(data, n)
        elif reader is not None:
            reader.feed_data(PyBytes_FromStringAndSize(data, n))
        return 0

    cdef int feed_bytes(self, bytes data) except -1:
        cdef object reader
        if self._stream_reader_wr is None:
            return 0
        reader = self._stream_reader_wr()
        if isinstance(reader, Reader):
            (<Reader>reader).take_bytes(data)
        elif reader is not None:
            reader.feed_data(data)
        return 0

    def data_received(self, data):
        """Bytes for the reader."""
        self.feed_bytes(data if type(data) is bytes else bytes(data))


cdef class Writer:
    """The compiled half of a stream writer."""

    cdef public object _transport
    cdef public object _protocol
    cdef public object _reader
    cdef public object _loop

    def write(self, data):
        """Sends at once what there is room for and keeps the rest; `drain` waits for room."""
        self._transport.write(data)

    def writelines(self, data):
        """Sends several buffers."""
        self._transport.writelines(data)

    async def drain(self):
        """Waits until there is room to write more. As asyncio.StreamWriter.drain."""
        cdef Feed protocol
        if isinstance(self._protocol, Feed) and isinstance(self._reader, Reader):
            protocol = <Feed>self._protocol
            if (<Reader>self._reader)._exception is None and not protocol._paused and \
                    not protocol._connection_lost and not self._transport.is_closing():
                return
        await InheritedWriter.drain(self)
