"""A descriptor of the user's own with a reader, a writer or both: add_reader and add_writer."""

from noria._core.contract cimport READABLE, WRITABLE, Channel
from noria._core.timers cimport Handle


cdef class Descriptor(Channel):
    """Calls its reader and its writer, in their contexts, for as long as it is ready."""

    cdef int add(self, int interest, object handle) except -1:
        former = self.reader if interest == READABLE else self.writer
        if former is not None:
            # The number may belong to another file by now: the kernel is told of it anew.
            self.remove(interest)
        self.model.watch(self, interest)
        if interest == READABLE:
            self.reader = handle
        else:
            self.writer = handle
        return 0

    cdef bint remove(self, int interest) except -1:
        cdef object handle
        if interest == READABLE:
            handle, self.reader = self.reader, None
        else:
            handle, self.writer = self.writer, None
        if self.watched & interest:
            self.model.unwatch(self, interest)
        if handle is None:
            return False
        handle.cancel()
        return True

    cdef int ready(self, int mask) except -1:
        cdef object writer = self.writer if mask & WRITABLE else None
        if mask & READABLE and self.reader is not None:
            if self.call(self.reader) < 0:
                return -1
        # The reader may have taken the writer away.
        if writer is not None and writer is self.writer:
            self.call(writer)
        return 0

    cdef int call(self, object handle) except -1:
        if type(handle) is not Handle:
            if not handle._cancelled:
                handle._run()       # asyncio's own, of debug mode: it reports on its own
            return 0
        try:
            (<Handle>handle).handle(NULL)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            self.core.call_exception_handler({
                "message": f"Exception in callback {handle!r}",
                "exception": error,
                "handle": handle,
            })
        return 0

    def __repr__(self):
        return f"<Descriptor fd={self.fd} reader={self.reader!r} writer={self.writer!r}>"
