"""Connections: from OPEN, ACCEPT or CONNECT of a descriptor until its CLOSE."""

from libc.errno cimport EAGAIN
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport realloc
from libc.string cimport memset

from noria._core.recorder.events cimport (
    ACCEPT, CALLER, CLOSE, CONNECT, END_OF_STREAM, OPEN, PAUSE_READING, PAUSE_WRITING, RECEIVE,
    RESUME_READING, RESUME_WRITING, SEND, TLS, UNSENT,
)
from noria._core.recorder.handlers cimport EVICTION_CHOICE, address_in
from noria._core.recorder.state cimport MAX_FD, Connection, State

cdef inline Connection *open_connection(State *s, uint64_t fd) noexcept nogil:
    """Return the open connection with a descriptor, or NULL."""
    if fd >= s.fd_count or s.fds[fd] == 0:
        return NULL
    return &s.connections[s.fds[fd] - 1]

cdef inline void close_connection(State *s, Connection *connection, int64_t now) noexcept nogil:
    connection.closed = now
    connection.unsent = 0
    end_reading_pause(connection, now)
    end_writing_pause(connection, now)
    s.fds[connection.fd] = 0
    s.connections_open -= 1

cdef inline void end_reading_pause(Connection *connection, int64_t now) noexcept nogil:
    if connection.reading_paused:
        connection.longest_reading_pause = max(connection.longest_reading_pause,
                                               now - connection.reading_paused)
        connection.reading_paused = 0

cdef inline void end_writing_pause(Connection *connection, int64_t now) noexcept nogil:
    if connection.writing_paused:
        connection.longest_writing_pause = max(connection.longest_writing_pause,
                                               now - connection.writing_paused)
        connection.writing_paused = 0

cdef inline Connection *add_connection(State *s, uint64_t fd, int64_t opened) noexcept nogil:
    """Return a new connection, or NULL if all that are kept are open or there is no memory."""
    cdef int32_t index, _
    cdef size_t size
    cdef void *larger
    cdef Connection *connection
    if fd >= MAX_FD:
        return NULL
    if fd >= s.fd_count:
        size = max(fd + 1, s.fd_count * 2)
        larger = realloc(s.fds, size * sizeof(int32_t))
        if larger == NULL:
            s.failed = True
            return NULL
        s.fds = <int32_t *>larger
        memset(s.fds + s.fd_count, 0, (size - s.fd_count) * sizeof(int32_t))
        s.fd_count = size
    if s.fds[fd]:
        close_connection(s, &s.connections[s.fds[fd] - 1], opened)
    if s.connection_count < s.max_connections:
        index = s.connection_count
        s.connection_count += 1
    else:
        index = -1
        for _ in range(EVICTION_CHOICE):
            connection = &s.connections[s.connection_hand]
            if connection.closed and (
                    index < 0 or connection.closed < s.connections[index].closed):
                index = s.connection_hand
            s.connection_hand = (s.connection_hand + 1) % s.max_connections
        if index < 0:
            return NULL
    connection = &s.connections[index]
    memset(connection, 0, sizeof(Connection))
    connection.fd = <int>fd
    connection.opened = opened
    s.fds[fd] = index + 1
    s.connections_open += 1
    return connection

cdef inline void count_send(State *s, Connection *connection) noexcept nogil:
    """Count a send; if the same handler call has sent here before, its code, too."""
    cdef int kind = s.last_handler.kind
    cdef uint64_t code = s.last_handler.code
    connection.sends += 1
    if s.group_count and connection.last_send == s.handler_number:
        connection.repeated_sends += 1
        # Majority vote of Boyer and Moore.
        if connection.sender_votes == 0:
            connection.sender = code
            connection.sender_kind = kind
        if connection.sender == code and connection.sender_kind == kind:
            connection.sender_votes += 1
        else:
            connection.sender_votes -= 1
    connection.last_send = s.handler_number

cdef inline void socket_record(State *s, int kind, uint64_t a, uint64_t b,
                               int64_t now) noexcept nogil:
    """A record of the group that begins with RECEIVE."""
    cdef uint64_t fd = a & <uint64_t>0xffffffff
    cdef uint64_t error = a >> 32
    cdef Connection *connection
    if kind == ACCEPT:
        if error == 0 and add_connection(s, b & <uint64_t>0xffffffff, now) != NULL:
            s.connections_opened += 1
        return
    connection = open_connection(s, fd)
    if kind == OPEN or kind == CONNECT:
        if kind == CONNECT and error:
            return
        if connection == NULL or connection.begun or connection.opened == 0:
            connection = add_connection(s, fd, now)
            s.connections_opened += 1
            if connection == NULL:
                return
        if kind == OPEN:
            connection.begun = True
            connection.datagrams = error != 0
            connection.protocol = address_in(b)
        connection.caused = kind
        return
    if kind == CLOSE:
        if connection != NULL:
            connection.error = <int>error
            close_connection(s, connection, now)
        return
    if connection == NULL:
        # It was opened before the records begin, or by the program itself.
        if kind == CALLER:
            return
        connection = add_connection(s, fd, 0)
        if connection == NULL:
            return
    if kind == RECEIVE:
        connection.receives += 1
        if error == 0 and b:    # not the end of the stream
            connection.last_received = now
            connection.bytes_in += b
    elif kind == SEND:
        count_send(s, connection)
        if error == 0:
            connection.last_sent = now
            connection.bytes_out += b
            connection.unsent = connection.unsent - <int64_t>b if \
                <int64_t>b < connection.unsent else 0
        elif error == EAGAIN:
            connection.blocked_sends += 1
    elif kind == UNSENT:
        if connection.writing_paused and <int64_t>b > connection.unsent:
            connection.written_while_paused += <int64_t>b - connection.unsent
        connection.unsent = <int64_t>b
        connection.most_unsent = max(connection.most_unsent, connection.unsent)
    elif kind == PAUSE_READING:
        if not connection.reading_paused:
            connection.reading_paused = now
        connection.caused = kind
    elif kind == RESUME_READING:
        end_reading_pause(connection, now)
    elif kind == PAUSE_WRITING:
        if not connection.writing_paused:
            connection.writing_paused = now
        connection.unsent = <int64_t>b
        connection.most_unsent = max(connection.most_unsent, connection.unsent)
        connection.caused = kind
    elif kind == RESUME_WRITING:
        end_writing_pause(connection, now)
    elif kind == END_OF_STREAM:
        connection.ended = True
    elif kind == TLS:
        connection.tls = 1 + <int>(b & 3)
    elif kind == CALLER:
        if connection.caused == PAUSE_READING:
            connection.paused_at.code = address_in(b)
            connection.paused_at.line = <uint32_t>(a >> 32)
        elif connection.caused == PAUSE_WRITING:
            connection.written_at.code = address_in(b)
            connection.written_at.line = <uint32_t>(a >> 32)
        elif connection.caused:
            connection.opened_at.code = address_in(b)
            connection.opened_at.line = <uint32_t>(a >> 32)
