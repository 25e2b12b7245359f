from libc.stdint cimport int64_t

from noria._core.contract cimport Channel
from noria._core.loop cimport Loop

cdef extern from "Python.h":
    ctypedef struct Raw "PyObject":
        pass

cdef enum:
    EOF_WRITTEN = 1  # write_eof was called
    SENDFILE = 2    # sendfile has the descriptor for now
    PAUSED = 1      # bits of Stream.paused: pause_reading was called
    DELIVERING_PAUSED = 2  # held data waits for its turn, so newer data must queue behind it

cdef class DirectProtocol:
    # A protocol that takes bytes where they are, without a Python call.
    cdef bint enabled               # not so if a subclass has a method of its own for them
    cdef bint wants_objects         # large messages are better given as objects
    cdef int feed(self, const char *data, Py_ssize_t n) except -1
    cdef int feed_bytes(self, bytes data) except -1

cdef class StreamSet:
    cdef set streams
    cdef public object on_open      # on_open(stream) and on_close(stream, error), or None
    cdef public object on_close
    cdef object on_descriptor_freed  # called once when a descriptor is free again
    cdef int add(self, Stream stream) except -1
    cdef int discard(self, Stream stream) except -1

cdef class Stream(Channel):
    # What every message needs stands together: after a trip through the kernel each line of the
    # cache that is touched costs as much as a call.
    cdef object protocol
    cdef object data_received       # the function of the protocol's class, or what stands for it
    cdef Py_ssize_t unsent_size     # bytes in `outgoing` that are not sent
    cdef unsigned size_hint         # how large the next message may be
    cdef unsigned received_turn     # the loop's turn in which data was received last
    cdef unsigned char pass_protocol  # data_received is a plain function: it wants the protocol too
    cdef unsigned char buffered     # a BufferedProtocol
    cdef unsigned char paused       # PAUSED and HOLDING; 0: data is delivered
    cdef unsigned char write_state  # ENDING or LENT: nothing more may be written
    cdef unsigned char closing      # close called
    cdef unsigned char closed       # nothing more will be sent or received
    cdef unsigned char protocol_paused  # the protocol was told pause_writing
    cdef unsigned char eof_delivered  # end of file received
    cdef unsigned char writes_after_close  # writes after the connection was lost
    cdef unsigned char tcp
    cdef unsigned char socket_owns_fd  # a Python socket has the descriptor too, and closes it
    cdef DirectProtocol direct_protocol  # the protocol, if it is one
    cdef Raw *incoming              # where the kernel is putting a large message
    cdef Loop loop
    cdef StreamSet group
    cdef list outgoing              # bytes that found no room; the first from `offset`
    cdef Py_ssize_t first, offset
    cdef Py_ssize_t high, low
    cdef list paused_data           # bytes that came while reading was paused
    cdef object extra               # get_extra_info's dict, made when asked for
    cdef object error               # what connection_lost will be told
    cdef int open(self, Loop loop, int fd, object protocol, StreamSet group, bint tcp) except -1
    cdef int start(self) except -1
    cdef int flush(self) except -1
    cdef int keep_unsent(self, bytes data, Py_ssize_t offset) except -1
    cdef int force_close(self, object error) except -1
    cdef int call_connection_lost(self) except -1
    cdef int detach_socket(self) except -1
    cdef int flush_at_turn_end(self) except -1
    cdef int count_sent(self, Py_ssize_t sent) except -1
    cdef int handle_eof(self) except -1
    cdef int deliver_eof(self) except -1
    cdef int deliver_data(self, bytes data) except -1
    cdef int fill_protocol_buffers(self, const char *data, Py_ssize_t n) except -1
    cdef int deliver_paused_data(self) except -1
    cdef int call_data_received(self, bytes data) except -1
    cdef int use_protocol(self, object protocol) except -1
    cdef int keep_paused_data(self, bytes data) except -1
    cdef int append_outgoing(self, bytes data, Py_ssize_t offset) except -1
    cdef int watch_writable(self) except -1
    cdef int notify_flow_control(self) except -1
    cdef int count_lost_write(self) except -1
    cdef int raise_unwritable(self, str method) except -1
    cpdef write(self, data)
    cdef Py_ssize_t send_now(self, const char *data, Py_ssize_t n) except? -2

cdef bytes bytes_of(data)
