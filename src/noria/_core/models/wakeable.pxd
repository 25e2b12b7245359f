from noria._core.contract cimport Channel, Model

cdef class WakeChannel(Channel):
    pass

cdef class WakeableModel(Model):
    cdef Channel wake_reader
    cdef int wake_writer
    cdef bint wake_pending      # a byte is in the pipe, or about to be
    cdef int empty_pipe(self, bint woken) except -1

cdef int record_wakeup(Model model) noexcept
cdef int drain_pipe(int fd) except -1
