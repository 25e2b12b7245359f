"""What of TLS runs for each message: decrypting what came, encrypting what goes.

Mixed with asyncio's own SSLProtocol, which brings the handshake, the shutdown and their time
limits. Its fields that are looked at for each message are fields of this class, under the same
names, so that both halves see the same state. Certificates and contexts are those of the ssl
module; between it and the socket are two `ssl.MemoryBIO`.
"""

from cpython.buffer cimport PyBUF_READ, PyBUF_WRITE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.ref cimport Py_DECREF

from noria._core.aio.connection cimport Connection
from noria._core.message cimport Raw, bytes_of, new_bytes, resize_bytes
from noria._core.transport cimport DirectProtocol

import ssl
from asyncio import sslproto

cdef enum:
    RECORD = 16 * 1024      # the most plain bytes of one record: RFC 8446, section 5.1
    LIKELY = 2048           # up to here a copy costs less than a view
    MOST = 256 * 1024       # the most bytes given to data_received at once

cdef object Inherited = sslproto.SSLProtocol
cdef object WRAPPED = sslproto.SSLProtocolState.WRAPPED
cdef object FLUSHING = sslproto.SSLProtocolState.FLUSHING
cdef tuple Again = (ssl.SSLWantReadError, ssl.SSLSyscallError)


cdef class Secure(DirectProtocol):
    """The compiled half of a TLS connection."""

    # asyncio's names: its half sets and reads them too.
    cdef public object _state
    cdef public object _sslobj
    cdef public object _incoming
    cdef public object _outgoing
    cdef public object _transport
    cdef public object _write_backlog
    cdef public Py_ssize_t _write_buffer_size
    cdef public Py_ssize_t _incoming_high_water
    cdef public Py_ssize_t _outgoing_high_water
    cdef public bint _app_reading_paused
    cdef public bint _ssl_reading_paused
    cdef public bint _ssl_writing_paused
    cdef public bint _app_writing_paused
    cdef public bint _app_protocol_is_buffer
    # Looked up once.
    cdef object data_received
    cdef object decrypt, encrypt, take_in, put_out
    cdef Connection raw
    cdef bint partial               # a part of a record waits inside the SSL object

    def __cinit__(self, *args, **kwargs):
        self.enabled = True

    def bind(self):
        """After asyncio's __init__: what is called for each message is looked up."""
        # The SSLObject's own read and write are thin Python around these.
        inner = getattr(self._sslobj, "_sslobj", self._sslobj)
        self.decrypt = inner.read
        self.encrypt = inner.write
        self.take_in = self._incoming.write
        self.put_out = self._outgoing.read

    def attach(self, transport):
        """The transport below; one of noria's is spoken to without any Python between."""
        connection = getattr(transport, "_connection", None)
        self.raw = connection if isinstance(connection, Connection) else None

    def adopt(self, protocol):
        """What is called with the plain bytes."""
        self.data_received = None if self._app_protocol_is_buffer else \
            getattr(protocol, "data_received", None)

    # What came.

    cdef int feed(self, const char *data, Py_ssize_t n) except -1:
        if n <= LIKELY:
            self.take_in(PyBytes_FromStringAndSize(data, n))
        else:
            self.take_in(PyMemoryView_FromMemory(<char *>data, n, PyBUF_READ))
        if self._state is WRAPPED:
            self._do_read()
        else:
            Inherited.buffer_updated(self, 0)
        return 0

    def _do_read(self):
        cdef Py_ssize_t pending
        if self._state is not WRAPPED and self._state is not FLUSHING:
            return
        try:
            if not self._app_reading_paused:
                if self._app_protocol_is_buffer:
                    self._do_read__buffered()
                else:
                    self.read_messages()
                if self._write_backlog:
                    self._do_write()
                elif self._app_writing_paused or self._outgoing.pending:
                    self._process_outgoing()
            elif self._outgoing.pending:
                # A peer waits for it (the end of the handshake, say), whether we read or not.
                self._process_outgoing()
            pending = self._incoming.pending
            if self._ssl_reading_paused or pending >= self._incoming_high_water:
                self._control_ssl_reading()
        except Exception as error:
            self._fatal_error(error, "Fatal error on SSL protocol")

    cdef int read_messages(self) except -1:
        """Gives data_received the records that are here whole, then tells the peer's end."""
        cdef Py_ssize_t pending
        cdef bint more = True
        cdef bytes data
        while more and not self._app_reading_paused:
            if self.data_received is None:
                # The protocol was replaced by a BufferedProtocol within data_received.
                self._do_read__buffered()
                return 0
            pending = self._incoming.pending
            if not self.partial and 0 < pending <= RECORD:
                # A plain text is never longer than its record.
                try:
                    data = self.decrypt(pending)
                except Again:
                    self.partial = True
                    return 0
                if not data:
                    return self.ended()
                more = PyBytes_GET_SIZE(data) == pending or self._incoming.pending > 0
                self.data_received(data)
            else:
                data = self.read_bulk(pending, &more)
                if data is None:
                    return 0
                if data:
                    self.data_received(data)
            if self._state is not WRAPPED and self._state is not FLUSHING:
                return 0
        return 0

    cdef bytes read_bulk(self, Py_ssize_t pending, bint *more):
        """Several records as one object, decrypted straight into it; None if there was nothing."""
        cdef Py_ssize_t room = min(pending + RECORD, MOST)
        cdef Py_ssize_t size = 0
        cdef Py_ssize_t n = 1
        cdef Raw *raw = new_bytes(NULL, room)
        cdef char *place = PyBytes_AS_STRING(<bytes>raw)
        cdef bytes data
        cdef object error = None
        more[0] = False
        try:
            while size < room:
                n = self.decrypt(room - size,
                                 PyMemoryView_FromMemory(place + size, room - size, PyBUF_WRITE))
                if n == 0:
                    break
                size += n
                self.partial = False
                pending = self._incoming.pending
                if pending == 0 and size < room:
                    break       # all is read: the next try could only fail
            more[0] = size == room
        except Again:
            # The SSL object takes from its input as much of a record as there is.
            self.partial = pending > 0
        except Exception as failure:
            error = failure
        if size < room:
            if size:
                resize_bytes(&raw, size)
            else:
                Py_DECREF(<object>raw)
                raw = new_bytes(NULL, 0)
        data = <bytes>raw
        Py_DECREF(data)
        if error is None and n:
            return data if size else None
        # What came before the end, or before the fault, is told first.
        more[0] = False
        if size:
            self.data_received(data)
        if error is not None:
            raise error
        self.ended()
        return None

    cdef int ended(self) except -1:
        """close_notify: the peer sends no more."""
        self._call_eof_received()
        self._start_shutdown()
        return 0

    # What goes.

    def write(self, data):
        """Encrypts and sends at once, what finds no room is kept below. As Transport.write."""
        if type(data) is bytes and self._state is WRAPPED and not self._write_backlog:
            if not data:
                return
            try:
                self.encrypt(data)
            except Again:
                self._write_appdata((data,))
                return
            except Exception as error:
                self._fatal_error(error, "Fatal error on SSL protocol")
                return
            if self.raw is not None and not self._ssl_writing_paused and \
                    not self._app_writing_paused and self._outgoing_high_water > 0:
                # A fault of the socket ends the connection from the queue, not in here.
                self.raw.write(self.put_out())
            else:
                self._process_outgoing()
            return
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError("data: expecting a bytes-like instance, got "
                            f"{type(data).__name__}")
        if data:
            self._write_appdata((data,))

    def writelines(self, list_of_data):
        """Encrypts several buffers as one. As Transport.writelines."""
        parts = [bytes_of(part) for part in list_of_data]
        self.write(b"".join(parts))

    def _write_appdata(self, list_of_data):
        # What has to be kept is kept as it is now, whatever the caller does with its buffer.
        Inherited._write_appdata(self, [bytes_of(part) for part in list_of_data])
