"""The count of a server's open connections, which each connection increments and decrements."""


cdef class ClientCount:
    """The base of `noria.aio.server.Server`, which implements `clients_gone`."""

    cdef int attach(self) except -1:
        """Count a new connection."""
        self.client_count += 1
        return 0

    cdef int detach(self) except -1:
        """Count a connection that has ended."""
        self.client_count -= 1
        if self.client_count == 0 and self.listening_ended:
            self.clients_gone()
        return 0

    # From Python 3.13 on, asyncio's own transports pass themselves.

    def _attach(self, transport=None):
        self.attach()

    def _detach(self, transport=None):
        self.detach()
