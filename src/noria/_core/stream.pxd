from libc.stdint cimport int64_t

from noria._core.contract cimport Channel
from noria._core.loop cimport Loop

cdef extern from "Python.h":
    ctypedef struct Raw "PyObject":
        pass

cdef enum:
    ENDING = 1      # write_eof was called
    LENT = 2        # sendfile has the descriptor for now
    PAUSED = 1      # bits of Stream.paused: pause_reading was called
    HOLDING = 2     # held data waits for its turn, so newer data must queue behind it

cdef class Sink:
    # A protocol that takes bytes where they are, without a Python call.
    cdef bint direct                # not so if a subclass has a method of its own for them
    cdef bint keeps                 # large messages are better given as objects
    cdef int feed(self, const char *data, Py_ssize_t n) except -1
    cdef int feed_bytes(self, bytes data) except -1

cdef class Group:
    cdef set streams
    cdef public object on_open      # on_open(stream) and on_close(stream, error), or None
    cdef public object on_close
    cdef object starved             # called once when a descriptor is free again
    cdef int link(self, Stream stream) except -1
    cdef int unlink(self, Stream stream) except -1

cdef class Stream(Channel):
    # What every message needs stands together: after a trip through the kernel each line of the
    # cache that is touched costs as much as a call.
    cdef object protocol
    cdef object data_received       # the function of the protocol's class, or what stands for it
    cdef Py_ssize_t backlog         # bytes in `outgoing` that are not sent
    cdef unsigned hint              # how large the next message may be
    cdef unsigned received_turn     # the loop's turn in which data was received last
    cdef unsigned char method       # data_received is a plain function: it wants the protocol too
    cdef unsigned char buffered     # a BufferedProtocol
    cdef unsigned char paused       # PAUSED and HOLDING; 0: data is delivered
    cdef unsigned char ending       # ENDING or LENT: nothing more may be written
    cdef unsigned char leaving      # close called
    cdef unsigned char gone         # nothing more will be sent or received
    cdef unsigned char full         # the protocol was told pause_writing
    cdef unsigned char ended        # end of file received
    cdef unsigned char lost         # writes after the connection was lost
    cdef unsigned char tcp
    cdef unsigned char shared       # a Python socket has the descriptor too, and closes it
    cdef Sink sink                  # the protocol, if it is one
    cdef Raw *fresh                 # where the kernel is putting a large message
    cdef Loop loop
    cdef Group group
    cdef list outgoing              # bytes that found no room; the first from `offset`
    cdef Py_ssize_t first, offset
    cdef Py_ssize_t high, low
    cdef list held                  # bytes that came while reading was paused
    cdef object extra               # get_extra_info's dict, made when asked for
    cdef object error               # what connection_lost will be told
    cdef int open(self, Loop loop, int fd, object protocol, Group group, bint tcp) except -1
    cdef int start(self) except -1
    cdef int flush(self) except -1
    cdef int keep(self, bytes data, Py_ssize_t offset) except -1
    cdef int vanish(self, object error) except -1
    cdef int lose(self) except -1
    cdef int detach_socket(self) except -1
    cdef int end_turn(self) except -1
    cdef int count_sent(self, Py_ssize_t sent) except -1
    cdef int end(self) except -1
    cdef int end_of_stream(self) except -1
    cdef int deliver_data(self, bytes data) except -1
    cdef int fill_protocol(self, const char *data, Py_ssize_t n) except -1
    cdef int release_held(self) except -1
    cdef int hand_over(self, bytes data) except -1
    cdef int adopt(self, object protocol) except -1
    cdef int hold(self, bytes data) except -1
    cdef int append(self, bytes data, Py_ssize_t offset) except -1
    cdef int await_room(self) except -1
    cdef int tell_room(self) except -1
    cdef int count_lost(self) except -1
    cdef int refuse_to_write(self, str method) except -1
    cpdef write(self, data)
    cdef Py_ssize_t send_now(self, const char *data, Py_ssize_t n) except? -2

cdef bytes bytes_of(data)
