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


cdef class StreamReaderBase:
    """The compiled half of asyncio.StreamReader."""

    cdef bytearray buffer
    # the last message, if nothing is buffered before it; the buffer is empty then
    cdef bytes message
    # whether the waiting coroutine takes any number of bytes
    cdef bint takes_any
    # asyncio's names: its methods use these fields, too.
    cdef public Py_ssize_t _limit
    cdef public object _loop
    cdef public object _waiter
    cdef public object _exception
    cdef public object _transport
    cdef public bint _eof
    cdef public bint _paused

    @property
    def _buffer(self):
        """The bytes that were not read, for asyncio's methods, which may change it."""
        self.join()
        return self.buffer

    @_buffer.setter
    def _buffer(self, bytearray buffer):
        self.buffer = buffer
        self.message = None

    cdef Py_ssize_t size(self) noexcept:
        if self.message is not None:
            return PyBytes_GET_SIZE(self.message)
        return PyByteArray_GET_SIZE(self.buffer)

    cdef int join(self) except -1:
        cdef bytes message = self.message
        if message is not None:
            self.message = None
            self.append(PyBytes_AS_STRING(message), PyBytes_GET_SIZE(message))
        return 0

    cdef int append(self, const char *data, Py_ssize_t n) except -1:
        cdef Py_ssize_t before = PyByteArray_GET_SIZE(self.buffer)
        PyByteArray_Resize(self.buffer, before + n)
        memcpy(PyByteArray_AS_STRING(self.buffer) + before, data, n)
        return 0

    cdef int feed_buffer(self, const char *data, Py_ssize_t n) except -1:
        """Buffer bytes and wake the waiting coroutine."""
        if self.takes_any and self.size() == 0:
            return self.feed_message(PyBytes_FromStringAndSize(data, n))
        self.check_eof()
        self.join()
        self.append(data, n)
        return self.data_added()

    cdef int feed_message(self, bytes data) except -1:
        """As feed_buffer, without a copy if nothing is buffered."""
        self.check_eof()
        if self.size():
            self.join()
            self.append(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        else:
            self.message = data
        return self.data_added()

    cdef int check_eof(self) except -1:
        if self._eof:
            raise AssertionError("feed_data after feed_eof")
        return 0

    cdef int data_added(self) except -1:
        if self._waiter is not None and self.size():
            waiter, self._waiter = self._waiter, None
            if not waiter.done():
                waiter.set_result(None)
        if self.size() > 2 * self._limit and not self._paused and self._transport is not None:
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
        cdef bytes data = self.message
        if data is not None and n == PyBytes_GET_SIZE(data):
            self.message = None
        else:
            self.join()
            data = PyBytes_FromStringAndSize(PyByteArray_AS_STRING(self.buffer), n)
            if n == PyByteArray_GET_SIZE(self.buffer):
                PyByteArray_Resize(self.buffer, 0)
            else:
                del self.buffer[:n]
        if self._paused and self.size() <= self._limit:
            self._paused = False
            self._transport.resume_reading()
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
            try:
                await waiter
            finally:
                self._waiter = None
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
        self.join()
        if PyBytes_GET_SIZE(end) > 1:
            return self.buffer.find(end, start)
        if start >= PyByteArray_GET_SIZE(self.buffer):
            # Another coroutine has read meanwhile.
            return -1
        base = PyByteArray_AS_STRING(self.buffer)
        place = <char *>memchr(base + start, PyBytes_AS_STRING(end)[0],
                               self.size() - start)
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
        if isinstance(reader, StreamReaderBase):
            (<StreamReaderBase>reader).feed_buffer(data, n)
        elif reader is not None:
            reader.feed_data(PyBytes_FromStringAndSize(data, n))
        return 0

    cdef int feed_bytes(self, bytes data) except -1:
        cdef object reader
        if self._stream_reader_wr is None:
            return 0
        reader = self._stream_reader_wr()
        if isinstance(reader, StreamReaderBase):
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
