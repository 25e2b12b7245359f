"""Memory and registration of a provided buffer ring. The rest is inline in buffers.pxd."""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from noria._core.sys cimport EINVAL
from noria._core.uring.abi cimport *
from noria._core.uring.ring cimport Ring, ring_register

import os

cdef enum:
    PAGE_BYTES = 4096


cdef int buffers_register(BufferRing *buffers, Ring *ring) except -1:
    """Allocate the buffers and provide the first ones to the ring.

    `incremental` is what the caller wants; it is cleared if the kernel is older than Linux 6.12.
    Raises MemoryError or OSError.
    """
    cdef noria_buf_reg registration
    cdef uint32_t _
    cdef size_t ring_size
    cdef int error
    while True:
        buffers.count = BUFFER_COUNT if buffers.incremental else WHOLE_BUFFER_COUNT
        buffers.buffer_size = BUFFER_BYTES if buffers.incremental else WHOLE_BUFFER_BYTES
        ring_size = buffers.count * sizeof(noria_buf)
        ring_size = (ring_size + PAGE_BYTES - 1) & ~<size_t>(PAGE_BYTES - 1)
        buffers.memory_size = ring_size + <size_t>buffers.count * buffers.buffer_size
        buffers.memory = <char *>mmap(NULL, buffers.memory_size, PROT_READ | PROT_WRITE,
                                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        if buffers.memory == <char *>MAP_FAILED:
            buffers.memory = NULL
            raise MemoryError("no memory for the buffers of io_uring")
        memset(&registration, 0, sizeof(registration))
        registration.ring_addr = <uint64_t>buffers.memory
        registration.ring_entries = buffers.count
        registration.flags = PBUF_RING_INC if buffers.incremental else 0
        error = -ring_register(ring, REGISTER_PBUF_RING, &registration, 1)
        if error == 0:
            break
        buffers_free(buffers)
        if not buffers.incremental or error != EINVAL:
            raise OSError(error, os.strerror(error), "io_uring buffer ring")
        buffers.incremental = False
    buffers.entries = <noria_buf *>buffers.memory
    buffers.data = buffers.memory + ring_size
    buffers.tail = 0
    buffers.provided = 0
    for _ in range(INITIAL_BUFFERS if buffers.incremental else buffers.count):
        buffers_provide_more(buffers)
    return 0


cdef void buffers_free(BufferRing *buffers) noexcept:
    if buffers.memory != NULL:
        munmap(buffers.memory, buffers.memory_size)
        buffers.memory = NULL
