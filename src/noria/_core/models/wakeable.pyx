"""Models that are woken through a pipe."""

from cpython.exc cimport PyErr_CheckSignals

from noria._core.contract cimport Channel, Model
from noria._core.recorder.events cimport RecordKind
from noria._core.recorder.record cimport record
from noria._core.sys cimport O_NONBLOCK, c_close, c_read, c_write, thread_native_id

import os


cdef class WakeChannel(Channel):
    """The reading end of the pipe with which other threads and signals end a wait."""

    cdef int ready(self, int mask) except -1:
        (<WakeableModel>self.model).empty_pipe(True)
        PyErr_CheckSignals()
        return 0

    cdef int failed(self, int error) except -1:
        raise OSError(error, "the pipe that wakes the loop was closed: threads cannot wake it")


cdef class WakeableModel(Model):
    """A model that other threads and signals wake through a pipe."""

    cdef int start_run(self) except -1:
        cdef Channel waker
        if self.inherited:
            self.raise_inherited()
        if self.wake_reader is None:
            reader, self.wake_writer = os.pipe2(O_NONBLOCK | os.O_CLOEXEC)
            waker = WakeChannel.__new__(WakeChannel)
            waker.fd = reader
            waker.model = self
            self.wake_reader = waker
        return 0

    cdef int wake(self) except -1:
        if not self.wake_pending and self.wake_reader is not None:
            self.wake_pending = True
            record_wakeup(self)
            c_write(self.wake_writer, b"\0", 1)
        return 0

    cdef int empty_pipe(self, bint woken) except -1:
        """Empty the pipe; `woken`: there is a byte in it."""
        drain_pipe(self.wake_reader.fd)
        if woken and not self.wake_pending and self.recorder != NULL:
            # A signal's handler has written to it.
            record(self.recorder, RecordKind.WAKEUP, 0, 0)
        self.wake_pending = False
        return 0

    def wake_fd(self):
        return self.wake_writer if self.wake_reader is not None else -1

    cdef int tear_down(self) except -1:
        if self.wake_reader is not None:
            c_close(self.wake_reader.fd)
            c_close(self.wake_writer)
            self.wake_reader.fd = -1
            self.wake_reader.model = None
            self.wake_reader = None
            self.wake_writer = -1
        return 0

    cdef int after_fork_in_child(self) except -1:
        return WakeableModel.tear_down(self)


cdef int record_wakeup(Model model) noexcept:
    """Record that this thread wakes the loop."""
    if model.recorder != NULL:
        record(model.recorder, RecordKind.WAKEUP, thread_native_id(), 0)
    return 0


cdef int drain_pipe(int fd) except -1:
    """Read all that is in a non-blocking pipe."""
    cdef char sink[256]
    while c_read(fd, sink, sizeof(sink)) == sizeof(sink):
        pass
    return 0
