"""The compiled half of the TLS protocol: decrypts and encrypts the records.

`noria.aio.tls_protocol` puts it in front of asyncio's SSLProtocol, which performs the handshake and
the shutdown, with their timeouts. Fields of asyncio's class that are used for each message are
fields of this class, under the same names, so that both see one state. Certificates and contexts
are those of the ssl module; ciphertext passes through two `ssl.MemoryBIO`.
"""

from cpython.buffer cimport PyBUF_READ, PyBUF_WRITE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.ref cimport Py_DECREF

from noria._core.aio.connection cimport Connection
from noria._core.message cimport Raw, bytes_of, new_bytes, resize_bytes
from noria._core.recorder.events cimport RecordKind
from noria._core.transport cimport DirectProtocol

import ssl
from asyncio import sslproto

cdef enum:
    # plaintext bytes of one record (RFC 8446, section 5.1)
    MAX_RECORD_SIZE = 16 * 1024
    # bytes up to which a copy costs less than a memoryview
    MAX_COPIED_INPUT = 2048
    # bytes of one call of data_received
    MAX_MESSAGE_SIZE = 256 * 1024
    # values of a TLS record: events.pxd
    HANDSHAKE_BEGINS = 0
    HANDSHAKE_DONE = 1
    HANDSHAKE_FAILED = 2

cdef object SSLProtocol = sslproto.SSLProtocol
cdef object WRAPPED = sslproto.SSLProtocolState.WRAPPED
cdef object UNWRAPPED = sslproto.SSLProtocolState.UNWRAPPED
cdef object DO_HANDSHAKE = sslproto.SSLProtocolState.DO_HANDSHAKE
cdef object FLUSHING = sslproto.SSLProtocolState.FLUSHING
cdef tuple NEED_MORE_INPUT = (ssl.SSLWantReadError, ssl.SSLSyscallError)


cdef class SSLProtocolBase(DirectProtocol):
    """The compiled half of asyncio.sslproto.SSLProtocol."""

    # asyncio's names: its methods use these fields, too.
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
    # methods of the application's protocol, the SSL object and the MemoryBIOs
    cdef object data_received
    cdef object decrypt, encrypt, write_incoming, read_outgoing
    # the channel of the plain transport, if that is noria's
    cdef Connection connection
    # whether the SSL object holds a part of a record
    cdef bint has_partial_record
    # whether the end of the handshake is recorded
    cdef bint handshake_noted

    def __cinit__(self, *args, **kwargs):
        self.enabled = True

    def look_up_methods(self):
        """Look up the methods that are called for each message; after asyncio's __init__."""
        # SSLObject.read and write are Python functions that call these.
        inner = getattr(self._sslobj, "_sslobj", self._sslobj)
        self.decrypt = inner.read
        self.encrypt = inner.write
        self.write_incoming = self._incoming.write
        self.read_outgoing = self._outgoing.read

    def set_plain_transport(self, transport):
        """Set the transport for ciphertext; methods of noria's are called without Python code."""
        connection = getattr(transport, "_connection", None)
        self.connection = connection if isinstance(connection, Connection) else None
        self.note_handshake(HANDSHAKE_BEGINS)

    cdef int note_handshake(self, int what) noexcept:
        if self.connection is not None:
            self.connection.note(RecordKind.TLS, what)
        return 0

    def end_handshake(self):
        """Record that the handshake has failed, if it is not done."""
        if not self.handshake_noted:
            self.handshake_noted = True
            self.note_handshake(HANDSHAKE_FAILED)

    def use_protocol(self, protocol):
        """Look up the method that is called with plaintext."""
        self.data_received = None if self._app_protocol_is_buffer else \
            getattr(protocol, "data_received", None)

    # Decrypting.

    cdef int feed(self, const char *data, Py_ssize_t n) except -1:
        if n <= MAX_COPIED_INPUT:
            self.write_incoming(PyBytes_FromStringAndSize(data, n))
        else:
            self.write_incoming(PyMemoryView_FromMemory(<char *>data, n, PyBUF_READ))
        if self._state is WRAPPED:
            self._do_read()
        else:
            SSLProtocol.buffer_updated(self, 0)
            # It may also be closing already.
            if not self.handshake_noted and self._state is not UNWRAPPED \
                    and self._state is not DO_HANDSHAKE:
                self.handshake_noted = True
                self.note_handshake(HANDSHAKE_DONE)
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
                # The peer may wait for it, for example for the end of the handshake.
                self._process_outgoing()
            pending = self._incoming.pending
            if self._ssl_reading_paused or pending >= self._incoming_high_water:
                self._control_ssl_reading()
        except Exception as error:
            self._fatal_error(error, "Fatal error on SSL protocol")

    cdef int read_messages(self) except -1:
        """Call data_received with the complete records, then eof_received at close_notify."""
        cdef Py_ssize_t pending
        cdef bint more = True
        cdef bytes data
        while more and not self._app_reading_paused:
            if self.data_received is None:
                # data_received has replaced the protocol by a BufferedProtocol.
                self._do_read__buffered()
                return 0
            pending = self._incoming.pending
            if not self.has_partial_record and 0 < pending <= MAX_RECORD_SIZE:
                # Plaintext is never longer than its record.
                try:
                    data = self.decrypt(pending)
                except NEED_MORE_INPUT:
                    self.has_partial_record = True
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
        """Decrypt several records into one object; None if there is no plaintext."""
        cdef Py_ssize_t capacity = min(pending + MAX_RECORD_SIZE, MAX_MESSAGE_SIZE)
        cdef Py_ssize_t size = 0
        cdef Py_ssize_t n = 1
        cdef Raw *raw = new_bytes(NULL, capacity)
        cdef char *place = PyBytes_AS_STRING(<bytes>raw)
        cdef bytes data
        cdef object error = None
        more[0] = False
        try:
            while size < capacity:
                n = self.decrypt(
                    capacity - size,
                    PyMemoryView_FromMemory(place + size, capacity - size, PyBUF_WRITE))
                if n == 0:
                    break
                size += n
                self.has_partial_record = False
                pending = self._incoming.pending
                if pending == 0 and size < capacity:
                    # All is read: another call would only raise.
                    break
            more[0] = size == capacity
        except NEED_MORE_INPUT:
            # The SSL object has taken the incomplete record from the MemoryBIO.
            self.has_partial_record = pending > 0
        except Exception as failure:
            error = failure
        if size < capacity:
            if size:
                resize_bytes(&raw, size)
            else:
                Py_DECREF(<object>raw)
                raw = new_bytes(NULL, 0)
        data = <bytes>raw
        Py_DECREF(data)
        if error is None and n:
            return data if size else None
        # Deliver the plaintext before the end or the error.
        more[0] = False
        if size:
            self.data_received(data)
        if error is not None:
            raise error
        self.ended()
        return None

    cdef int ended(self) except -1:
        """Handle close_notify: the peer sends no more data."""
        self._call_eof_received()
        self._start_shutdown()
        return 0

    # Encrypting.

    def write(self, data):
        """Encrypt data and write it to the plain transport. As Transport.write."""
        if type(data) is bytes and self._state is WRAPPED and not self._write_backlog:
            if not data:
                return
            try:
                self.encrypt(data)
            except NEED_MORE_INPUT:
                self._write_appdata((data,))
                return
            except Exception as error:
                self._fatal_error(error, "Fatal error on SSL protocol")
                return
            if self.connection is not None and not self._ssl_writing_paused and \
                    not self._app_writing_paused and self._outgoing_high_water > 0:
                # It raises no error of the socket: the connection is closed from the queue.
                self.connection.write(self.read_outgoing())
            else:
                self._process_outgoing()
            return
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError("data: expecting a bytes-like instance, got "
                            f"{type(data).__name__}")
        if data:
            self._write_appdata((data,))

    def writelines(self, list_of_data):
        """Encrypt several buffers as one. As Transport.writelines."""
        parts = [bytes_of(part) for part in list_of_data]
        self.write(b"".join(parts))

    def _write_appdata(self, list_of_data):
        # Copies: the caller may change its buffer before the data is encrypted.
        SSLProtocol._write_appdata(self, [bytes_of(part) for part in list_of_data])
