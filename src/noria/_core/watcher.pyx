"""A descriptor of the user's own that is watched for readiness, and nothing else is done to it."""

from noria._core.contract cimport (
    READABLE, URGENT, WRITABLE, Channel, Model,
)

import fcntl


cdef class Watcher(Channel):
    """Calls `callback(mask)` when the descriptor is ready: 1 to read, 2 to write, 4 exceptional.

    The descriptor stays the user's: closing the watcher does not close it. If the descriptor is
    closed first and the model notices, the callback is called a last time, with all that it was
    watched for.
    """

    cdef object callback
    cdef int wanted             # the mask of the last `watch`

    def __init__(self, Model model, int fd, callback):
        fcntl.fcntl(fd, fcntl.F_GETFD)      # EBADF now rather than later
        self.model = model
        self.fd = fd
        self.callback = callback

    def watch(self, int mask):
        """Watches for exactly `mask`; 0 for nothing."""
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
        """What it is watched for."""
        return mask_of(self.watched)

    def close(self):
        """Stops watching."""
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
