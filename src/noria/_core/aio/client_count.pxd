cdef class ClientCount:
    # connections that have not ended
    cdef readonly Py_ssize_t client_count
    # whether the server has stopped listening: the end of the last connection calls `clients_gone`
    cdef public bint listening_ended
    cdef int attach(self) except -1
    cdef int detach(self) except -1
