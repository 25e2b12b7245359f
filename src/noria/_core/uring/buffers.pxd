"""The buffers that the kernel receives into: a provided buffer ring, io_uring_register_buf_ring(3).

Few buffers stay in the processor's cache because they are reused in turn. So a ring starts with
INITIAL_BUFFERS, and provides one more each time that the kernel runs out of them (ENOBUFS).
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from noria._core.uring.abi cimport *
from noria._core.uring.ring cimport Ring

cdef enum:
    BUFFER_COUNT = 16               # a power of two
    BUFFER_BYTES = 256 * 1024
    INITIAL_BUFFERS = 4
    # Before Linux 6.12 buffers are not incremental: each arrival takes a whole one.
    WHOLE_BUFFER_COUNT = 512
    WHOLE_BUFFER_BYTES = 8 * 1024

cdef struct BufferRing:
    char *memory                    # the ring's entries, then the buffers
    size_t memory_size
    noria_buf *entries
    char *data
    uint32_t count, buffer_size
    uint32_t provided               # buffers that the kernel has had
    uint16_t tail
    bint incremental                # arrivals share a buffer
    uint32_t used[WHOLE_BUFFER_COUNT]   # bytes of each buffer that the kernel has filled

cdef int buffers_register(BufferRing *buffers, Ring *ring) except -1
cdef void buffers_free(BufferRing *buffers) noexcept


cdef inline void buffers_provide(BufferRing *buffers, uint32_t index) noexcept:
    """Let the kernel fill a buffer (again)."""
    cdef noria_buf *entry = &buffers.entries[buffers.tail & (buffers.count - 1)]
    buffers.used[index] = 0
    entry.addr = <uint64_t>(buffers.data + <size_t>index * buffers.buffer_size)
    entry.len = buffers.buffer_size
    entry.bid = <uint16_t>index
    buffers.tail += 1
    store16(&buffers.entries[0].tail, buffers.tail)


cdef inline void buffers_provide_more(BufferRing *buffers) noexcept:
    """Provide one more buffer, if there is one that the kernel has not had."""
    if buffers.provided < buffers.count:
        buffers_provide(buffers, buffers.provided)
        buffers.provided += 1


cdef inline char *buffers_data(BufferRing *buffers, noria_cqe *cqe) noexcept:
    """Where the bytes of a receive completion are."""
    cdef uint32_t index = cqe.flags >> CQE_BUFFER_SHIFT
    cdef char *data = buffers.data + <size_t>index * buffers.buffer_size + buffers.used[index]
    if cqe.res > 0:
        buffers.used[index] += cqe.res
    return data


cdef inline uint32_t buffers_index(BufferRing *buffers, char *data) noexcept:
    """The buffer that `data` is in."""
    return <uint32_t>((data - buffers.data) // buffers.buffer_size)
