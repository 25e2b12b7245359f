"""The compiled halves of stream readers and writers: the methods that run for each message.

`noria.aio.stream_classes` puts them in front of asyncio's own classes. Ends of file, errors and
exceeded limits are left to asyncio's methods, which use the same fields.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE, PyByteArray_Resize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memchr, memcpy

from noria._core.transport cimport DirectProtocol

import asyncio

cdef object AsyncioStreamReader = asyncio.StreamReader
cdef object AsyncioStreamWriter = asyncio.StreamWriter

cdef enum:
    # bytes that readexactly has memory for before they have come; more are buffered
    MAX_TARGET = 1024 * 1024
    # A message of more bytes is freed when less than an eighth of them are unread.
    MAX_KEPT = 8 * 1024


cdef class StreamReaderBase:
    """The compiled half of asyncio.StreamReader."""

    # The unread bytes are, in this order: `target` up to `filled`, if it is not None; `message`
    # from `start` on, if it is not None, otherwise `buffer`, which is empty beside a message.
    cdef bytearray buffer
    cdef bytes message
    cdef Py_ssize_t start
    # the object that readexactly will return, if its bytes come in several messages
    cdef bytes target
    cdef Py_ssize_t filled
    # number of bytes for which the waiting readexactly waits, or 0
    cdef Py_ssize_t wanted
    # whether the waiting coroutine takes any number of bytes
    cdef bint takes_any
    # whether a subclass overrides feed_data
    cdef bint feed_data_overridden
    # asyncio's names: its methods use these fields, too.
    cdef public Py_ssize_t _limit
    cdef public object _loop
    cdef public object _waiter
    cdef public object _exception
    cdef public object _transport
    cdef public bint _eof
    cdef public bint _paused

    def __cinit__(self, *args, **kwargs):
        self.feed_data_overridden = type(self).feed_data is not StreamReaderBase.feed_data

    @property
    def _buffer(self):
        """The bytes that were not read, for asyncio's methods, which may change it."""
        self.join()
        return self.buffer

    @_buffer.setter
    def _buffer(self, bytearray buffer):
        self.buffer = buffer
        self.message = self.target = None
        self.filled = 0

    cdef Py_ssize_t size(self) noexcept:
        """The number of unread bytes."""
        return self.filled + self.size_after_target()

    cdef Py_ssize_t size_after_target(self) noexcept:
        if self.message is not None:
            return PyBytes_GET_SIZE(self.message) - self.start
        return PyByteArray_GET_SIZE(self.buffer)

    cdef char *after_target(self) noexcept:
        """The first unread byte that is not in `target`."""
        if self.message is not None:
            return PyBytes_AS_STRING(self.message) + self.start
        return PyByteArray_AS_STRING(self.buffer)

    cdef int join(self) except -1:
        """Move all unread bytes into the buffer."""
        cdef bytes target = self.target
        cdef bytearray rest
        self.buffer_message()
        if target is not None:
            rest, self.buffer = self.buffer, bytearray()
            self.append(PyBytes_AS_STRING(target), self.filled)
            self.append(PyByteArray_AS_STRING(rest), PyByteArray_GET_SIZE(rest))
            self.target = None
            self.filled = 0
        return 0

    cdef int buffer_message(self) except -1:
        cdef bytes message = self.message
        if message is not None:
            self.message = None
            self.append(PyBytes_AS_STRING(message) + self.start,
                        PyBytes_GET_SIZE(message) - self.start)
        return 0

    cdef int append(self, const char *data, Py_ssize_t n) except -1:
        cdef Py_ssize_t before = PyByteArray_GET_SIZE(self.buffer)
        PyByteArray_Resize(self.buffer, before + n)
        memcpy(PyByteArray_AS_STRING(self.buffer) + before, data, n)
        return 0

    cdef Py_ssize_t fill_target(self, const char *data, Py_ssize_t n) except -1:
        """Copy bytes into what the waiting readexactly will return; return how many."""
        cdef Py_ssize_t before
        if self.target is None:
            before = self.size_after_target()
            # A single message that has all the bytes is taken without a copy.
            if not 0 < before < self.wanted <= MAX_TARGET:
                return 0
            self.target = PyBytes_FromStringAndSize(NULL, self.wanted)
            memcpy(PyBytes_AS_STRING(self.target), self.after_target(), before)
            self.filled = before
            self.message = None
            PyByteArray_Resize(self.buffer, 0)
        n = min(n, PyBytes_GET_SIZE(self.target) - self.filled)
        memcpy(PyBytes_AS_STRING(self.target) + self.filled, data, n)
        self.filled += n
        return n

    cdef int feed_buffer(self, const char *data, Py_ssize_t n) except -1:
        """Buffer bytes and wake the waiting coroutine."""
        cdef Py_ssize_t used
        if (self.takes_any or n == self.wanted) and self.size() == 0:
            return self.feed_message(PyBytes_FromStringAndSize(data, n))
        self.check_eof()
        used = self.fill_target(data, n)
        if used < n:
            self.buffer_message()
            self.append(data + used, n - used)
        return self.data_added()

    cdef int feed_message(self, bytes data) except -1:
        """As feed_buffer, without a copy if nothing is buffered."""
        cdef Py_ssize_t n = PyBytes_GET_SIZE(data)
        cdef Py_ssize_t used
        self.check_eof()
        used = self.fill_target(PyBytes_AS_STRING(data), n)
        if used < n:
            if self.size_after_target():
                self.buffer_message()
                self.append(PyBytes_AS_STRING(data) + used, n - used)
            else:
                self.message = data
                self.start = used
        return self.data_added()

    cdef int check_eof(self) except -1:
        if self._eof:
            raise AssertionError("feed_data after feed_eof")
        return 0

    cdef int data_added(self) except -1:
        cdef Py_ssize_t size = self.size()
        if self._waiter is not None and size:
            if size < self.wanted:
                # The transport is not paused either: the waiting coroutine would resume it at once.
                return 0
            waiter, self._waiter = self._waiter, None
            if not waiter.done():
                waiter.set_result(None)
        if size > 2 * self._limit and not self._paused and self._transport is not None:
            self.pause_transport()
        return 0

    cdef int pause_transport(self) except -1:
        try:
            self._transport.pause_reading()
        except NotImplementedError:
            # It cannot pause: the buffer may grow without limit.
            self._transport = None
        else:
            self._paused = True
        return 0

    cdef bytes take(self, Py_ssize_t n):
        """Remove and return the first n bytes; resume reading if the buffer is below its limit."""
        cdef bytes data = self.target
        if data is not None:
            if n == self.filled == PyBytes_GET_SIZE(data):
                self.target = None
                self.filled = 0
            else:
                self.join()
                data = self.take_buffered(n)
        elif self.message is not None:
            data = self.take_from_message(n)
        else:
            data = self.take_buffered(n)
        if self._paused and self.size() <= self._limit:
            self._paused = False
            self._transport.resume_reading()
        return data

    cdef bytes take_buffered(self, Py_ssize_t n):
        cdef bytes data = PyBytes_FromStringAndSize(PyByteArray_AS_STRING(self.buffer), n)
        if n == PyByteArray_GET_SIZE(self.buffer):
            PyByteArray_Resize(self.buffer, 0)
        else:
            del self.buffer[:n]
        return data

    cdef bytes take_from_message(self, Py_ssize_t n):
        cdef bytes data = self.message
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
        if n == size and self.start == 0:
            self.message = None
            return data
        data = PyBytes_FromStringAndSize(PyBytes_AS_STRING(data) + self.start, n)
        self.start += n
        if self.start == size:
            self.message = None
        elif size > MAX_KEPT and (size - self.start) * 8 < size:
            # A few bytes must not keep the memory of a large message.
            self.buffer_message()
        return data

    cdef object create_waiter(self, str method):
        if self._waiter is not None:
            raise RuntimeError(f"{method}() called while another coroutine is already waiting for "
                               "incoming data")
        if self._paused:
            # A coroutine that waits for more bytes than the limit would never be woken.
            self._paused = False
            self._transport.resume_reading()
        self._waiter = self._loop.create_future()
        return self._waiter

    def feed_data(self, data):
        """Add bytes to the buffer. As asyncio.StreamReader.feed_data."""
        self.feed_message(data if type(data) is bytes else bytes(data))

    async def read(self, n=-1):
        """Read 1 to `n` bytes, or b"" at the end of file. As asyncio.StreamReader.read."""
        cdef Py_ssize_t wanted = n
        if self._exception is not None:
            raise self._exception
        if wanted <= 0:
            return await AsyncioStreamReader.read(self, n)
        if not self.size() and not self._eof:
            waiter = self.create_waiter("read")
            self.takes_any = True
            try:
                await waiter
            finally:
                self._waiter = None
                self.takes_any = False
        return self.take(min(wanted, self.size()))

    async def readexactly(self, n):
        """Exactly `n` bytes. As asyncio.StreamReader.readexactly."""
        cdef Py_ssize_t wanted = n
        if self._exception is not None or wanted <= 0:
            return await AsyncioStreamReader.readexactly(self, n)
        while self.size() < wanted:
            if self._eof:
                return await AsyncioStreamReader.readexactly(self, n)
            waiter = self.create_waiter("readexactly")
            self.wanted = wanted
            try:
                await waiter
            finally:
                self._waiter = None
                self.wanted = 0
        return self.take(wanted)

    async def readline(self):
        """Read a line with its newline, or the rest. As asyncio.StreamReader.readline."""
        cdef Py_ssize_t searched = 0
        cdef Py_ssize_t found
        if self._exception is not None:
            raise self._exception
        while True:
            found = self.find(b"\n", searched)
            if 0 <= found <= self._limit:
                return self.take(found + 1)
            searched = self.size()
            if found >= 0 or self._eof or searched > self._limit:
                return await AsyncioStreamReader.readline(self)
            waiter = self.create_waiter("readuntil")
            try:
                await waiter
            finally:
                self._waiter = None

    async def readuntil(self, separator=b"\n"):
        """Read bytes up to and including the separator. As asyncio.StreamReader.readuntil."""
        cdef Py_ssize_t searched = 0
        cdef Py_ssize_t found, length
        cdef bytes end
        if type(separator) is not bytes or not separator:
            return await AsyncioStreamReader.readuntil(self, separator)
        if self._exception is not None:
            raise self._exception
        end = separator
        length = PyBytes_GET_SIZE(end)
        while True:
            found = self.find(end, searched)
            if 0 <= found <= self._limit:
                return self.take(found + length)
            # The last bytes may be the start of a separator.
            searched = max(0, self.size() + 1 - length)
            if found >= 0 or self._eof or searched > self._limit:
                return await AsyncioStreamReader.readuntil(self, separator)
            waiter = self.create_waiter("readuntil")
            try:
                await waiter
            finally:
                self._waiter = None

    cdef Py_ssize_t find(self, bytes end, Py_ssize_t start) except -2:
        cdef char *base
        cdef char *place
        cdef Py_ssize_t found
        if self.target is not None:
            self.join()
        if PyBytes_GET_SIZE(end) > 1:
            if self.message is None:
                return self.buffer.find(end, start)
            found = self.message.find(end, self.start + start)
            return -1 if found < 0 else found - self.start
        if start >= self.size_after_target():
            # Another coroutine has read meanwhile.
            return -1
        base = self.after_target()
        place = <char *>memchr(base + start, PyBytes_AS_STRING(end)[0],
                               self.size_after_target() - start)
        return -1 if place == NULL else place - base


cdef class StreamReaderProtocolBase(DirectProtocol):
    """The compiled half of asyncio.StreamReaderProtocol."""

    cdef public object _stream_reader_wr
    cdef public bint _paused
    cdef public bint _connection_lost

    def __cinit__(self, *args, **kwargs):
        self.wants_objects = True
        # If a subclass overrides data_received, the override is called, as in asyncio.
        self.enabled = type(self).data_received is StreamReaderProtocolBase.data_received

    cdef int feed(self, const char *data, Py_ssize_t n) except -1:
        cdef object reader
        if self._stream_reader_wr is None:
            return 0
        reader = self._stream_reader_wr()
        if isinstance(reader, StreamReaderBase) \
                and not (<StreamReaderBase>reader).feed_data_overridden:
            (<StreamReaderBase>reader).feed_buffer(data, n)
        elif reader is not None:
            reader.feed_data(PyBytes_FromStringAndSize(data, n))
        return 0

    cdef int feed_bytes(self, bytes data) except -1:
        cdef object reader
        if self._stream_reader_wr is None:
            return 0
        reader = self._stream_reader_wr()
        if isinstance(reader, StreamReaderBase) \
                and not (<StreamReaderBase>reader).feed_data_overridden:
            (<StreamReaderBase>reader).feed_message(data)
        elif reader is not None:
            reader.feed_data(data)
        return 0

    def data_received(self, data):
        """Feed bytes to the reader."""
        self.feed_bytes(data if type(data) is bytes else bytes(data))


cdef class StreamWriterBase:
    """The compiled half of asyncio.StreamWriter."""

    cdef public object _transport
    cdef public object _protocol
    cdef public object _reader
    cdef public object _loop

    def write(self, data):
        """Write data to the transport; `drain` waits for its flow control."""
        self._transport.write(data)

    def writelines(self, data):
        """Write several buffers to the transport."""
        self._transport.writelines(data)

    async def drain(self):
        """Wait until the transport accepts more data. As asyncio.StreamWriter.drain."""
        cdef StreamReaderProtocolBase protocol
        if isinstance(self._protocol, StreamReaderProtocolBase) \
                and isinstance(self._reader, StreamReaderBase):
            protocol = <StreamReaderProtocolBase>self._protocol
            if (<StreamReaderBase>self._reader)._exception is None and not protocol._paused and \
                    not protocol._connection_lost and not self._transport.is_closing():
                return
        await AsyncioStreamWriter.drain(self)
