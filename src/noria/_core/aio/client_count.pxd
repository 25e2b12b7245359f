cdef class ClientCount:
    # connections that have not ended
    cdef readonly Py_ssize_t client_count
    # the server does not listen any more: `clients_gone` is called at the end of the last one
    cdef public bint listening_ended
    cdef int attach(self) except -1
    cdef int detach(self) except -1
