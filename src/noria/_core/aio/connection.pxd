from noria._core.aio.core cimport Core
from noria._core.stream cimport Stream

cdef class Connection(Stream):
    cdef Core core
    cdef object context             # its protocol's calls run in it
    cdef object caller_socket       # the caller's socket object, who may close it
    cdef readonly object transport  # what the protocol knows; None after connection_lost
    cdef object server
    cdef object waiter              # set once connection_made was called
    cdef object empty_waiter        # set once all that was written is sent
    cdef bytes deferred_write               # what is held, and what the model's send_later has
    cdef unsigned char peer[32]     # raw addresses; longer ones are asked for when wanted
    cdef unsigned char name[32]
    cdef unsigned char peer_length
    cdef unsigned char name_length
    cdef unsigned char bursty       # it writes several times a turn: see connection.pyx
    cdef unsigned char corked       # what is kept is sent at the end of this turn
    cdef unsigned last_write_turn   # the turn of the last write
    cdef bint cork(self, data) except -1
    cdef int uncork(self) except -1
    cdef int flush_corked(self, bytes data) except -1
    cdef bint defer_write(self, data) except -1
    cdef bint coalesce(self) except -1
    cdef int send_deferred_write(self) noexcept
    cdef int call_connection_made(self) except -1
    cdef bint closed_by_caller(self) except -1

cdef Connection new_connection(Core core, int fd, object protocol, object server, bint tcp,
                               object context)
