from noria._core.loop cimport Loop
from noria._core.message cimport Raw
from noria._core.transport cimport StreamSet, TransportChannel, WriteBuffer

cdef enum:
    # Values of Stream.write_state other than 0: write and writelines raise.
    EOF_WRITTEN = 1         # write_eof was called
    SENDFILE = 2            # sendfile uses the descriptor
    # Bits of Stream.paused.
    PAUSED = 1              # pause_reading was called
    DELIVERING_PAUSED = 2   # paused_data is being delivered, so newer data must queue behind it
    # Results of CALL events, beside CONNECTION_LOST and Connection's STARTED (3).
    READING_RESUMED = 2
    EOF_REACHED = 4

cdef class Stream(TransportChannel):
    # The fields that each message needs are next to each other: after a wait in the kernel, each
    # cache line that is touched costs as much as a function call.
    cdef object data_received       # a function of the protocol's class, or a bound method
    cdef Py_ssize_t unsent_size     # written bytes that are not sent
    cdef unsigned size_hint         # the expected size of the next message
    cdef unsigned received_turn     # the loop's turn in which data was received last
    cdef unsigned char pass_protocol    # data_received is a function: its first argument is `self`
    cdef unsigned char buffered     # the protocol is a BufferedProtocol
    cdef unsigned char paused       # PAUSED and DELIVERING_PAUSED; 0: data is delivered
    cdef unsigned char write_state  # 0, EOF_WRITTEN or SENDFILE
    cdef unsigned char protocol_paused  # pause_writing was called, and resume_writing was not
    cdef unsigned char eof_delivered    # eof_received was called
    cdef unsigned char writes_after_close
    cdef unsigned char direct       # the protocol is a DirectProtocol that is enabled
    cdef Raw *incoming              # the object into which a large message is being received
    cdef StreamSet group
    cdef WriteBuffer unsent         # None until the socket has not taken all data
    cdef list paused_data           # data received while reading was paused; b"" is the end
    cdef int open(self, Loop loop, int fd, object protocol, StreamSet group, bint tcp) except -1
    cdef int start(self) except -1
    cdef int use_protocol(self, object protocol) except -1
    # Receiving.
    cdef int deliver_data(self, bytes data) except -1
    cdef int call_data_received(self, bytes data) except -1
    cdef int fill_protocol_buffers(self, const char *data, Py_ssize_t n) except -1
    cdef int handle_eof(self) except -1
    cdef int deliver_eof(self) except -1
    cdef int keep_paused_data(self, bytes data) except -1
    cdef int deliver_paused_data(self) except -1
    # Sending.
    cpdef write(self, data)
    cdef Py_ssize_t send_now(self, const char *data, Py_ssize_t n) except? -2
    cdef int keep_unsent(self, bytes data, Py_ssize_t offset) except -1
    cdef WriteBuffer write_buffer(self)
    cdef Py_ssize_t high_water(self) noexcept
    cdef Py_ssize_t low_water(self) noexcept
    cdef int append_outgoing(self, bytes data, Py_ssize_t offset) except -1
    cdef int flush(self) except -1
    cdef int count_sent(self, Py_ssize_t sent) except -1
    cdef int watch_writable(self) except -1
    cdef int pause_protocol(self, bint paused) except -1
    cdef int notify_flow_control(self) except -1
    cdef int count_lost_write(self) except -1
    cdef int raise_unwritable(self, str method) except -1
    cdef int flush_at_turn_end(self) except -1
