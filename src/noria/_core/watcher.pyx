"""Watching the readiness of a descriptor that the user reads, writes and closes."""

from noria._core.contract cimport (
    READABLE, URGENT, WRITABLE, Channel, Model,
)

import fcntl


cdef class Watcher(Channel):
    """Calls `callback(mask)` when the descriptor is ready: 1 read, 2 write, 4 exceptional.

    Closing the watcher does not close the descriptor. If the descriptor is closed first and the
    model notices, the callback is called one more time, with the whole mask of the last `watch`.
    """

    cdef object callback
    cdef int wanted             # the mask of the last `watch`

    def __init__(self, Model model, int fd, callback):
        # Raises EBADF now, not later in a turn of the loop.
        fcntl.fcntl(fd, fcntl.F_GETFD)
        self.model = model
        self.fd = fd
        self.callback = callback

    def watch(self, int mask):
        """Watch for exactly `mask`; 0 for nothing."""
        cdef int interest
        self.wanted = mask
        interest = ((READABLE if mask & 1 else 0) | (WRITABLE if mask & 2 else 0)
                    | (URGENT if mask & 4 else 0))
        if self.watched & ~interest:
            self.model.unwatch(self, self.watched & ~interest)
        if interest & ~self.watched:
            self.model.watch(self, interest & ~self.watched)

    @property
    def mask(self):
        """The mask for which the descriptor is watched."""
        return mask_of(self.watched)

    def close(self):
        """Stop watching."""
        if not self.releasing and not self.model.closed:
            self.model.release(self)

    cdef int ready(self, int mask) except -1:
        self.callback(mask_of(mask))
        return 0

    cdef int failed(self, int error) except -1:
        self.callback(self.wanted & 7)
        return 0


cdef inline int mask_of(int interest) noexcept:
    return ((1 if interest & READABLE else 0) | (2 if interest & WRITABLE else 0)
            | (4 if interest & URGENT else 0))
