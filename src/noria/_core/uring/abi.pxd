"""The kernel's io_uring interface: structures, opcodes, flags, and the mapping of a ring's queues.

Source: include/uapi/linux/io_uring.h of Linux 6.18, whose names these are without `IORING_` and
`IOSQE_`. Numbers stand here because they are ABI: noria builds with older kernel headers.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from *:
    """
    #include <errno.h>
    #include <stdint.h>
    #include <sys/mman.h>
    struct noria_sqe {
        uint8_t opcode, flags;
        uint16_t ioprio;
        int32_t fd;
        uint64_t off, addr;
        uint32_t len, op_flags;
        uint64_t user_data;
        uint16_t buf_group, personality;
        int32_t splice_fd_in;
        uint64_t addr3, pad;
    };
    struct noria_cqe { uint64_t user_data; int32_t res; uint32_t flags; };
    struct noria_sq_offsets {
        uint32_t head, tail, ring_mask, ring_entries, flags, dropped, array, resv1;
        uint64_t user_addr;
    };
    struct noria_cq_offsets {
        uint32_t head, tail, ring_mask, ring_entries, overflow, cqes, flags, resv1;
        uint64_t user_addr;
    };
    struct noria_params {
        uint32_t sq_entries, cq_entries, flags, sq_thread_cpu, sq_thread_idle, features, wq_fd;
        uint32_t resv[3];
        struct noria_sq_offsets sq_off;
        struct noria_cq_offsets cq_off;
    };
    struct noria_buf { uint64_t addr; uint32_t len; uint16_t bid, tail; };
    struct noria_buf_reg {
        uint64_t ring_addr;
        uint32_t ring_entries;
        uint16_t bgid, flags;
        uint64_t resv[3];
    };
    struct noria_getevents_arg {
        uint64_t sigmask;
        uint32_t sigmask_sz, min_wait_usec;
        uint64_t ts;
    };
    struct noria_timespec { int64_t tv_sec; long long tv_nsec; };
    struct noria_queues {
        char *memory;
        size_t memory_size, sqes_size;
        struct noria_sqe *sqes;
        struct noria_cqe *cqes;
        uint32_t *sq_head, *sq_tail, *sq_flags, *cq_head, *cq_tail;
        uint32_t sq_mask, sq_size, cq_mask;
    };
    static void noria_unmap_queues(struct noria_queues *m) {
        if (m->sqes)
            munmap(m->sqes, m->sqes_size);
        if (m->memory)
            munmap(m->memory, m->memory_size);
        m->sqes = NULL;
        m->memory = NULL;
    }
    static void *noria_map_shared(int ring, size_t n, uint64_t offset) {
        void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, offset);
        return p == MAP_FAILED ? NULL : p;
    }
    static int noria_map_queues(struct noria_queues *m, int ring, const struct noria_params *p) {
        size_t sq = p->sq_off.array + p->sq_entries * sizeof(uint32_t);
        size_t cq = p->cq_off.cqes + p->cq_entries * sizeof(struct noria_cqe);
        m->memory_size = sq > cq ? sq : cq;
        m->sqes_size = p->sq_entries * sizeof(struct noria_sqe);
        m->memory = noria_map_shared(ring, m->memory_size, 0 /* IORING_OFF_SQ_RING */);
        m->sqes = m->memory
            ? noria_map_shared(ring, m->sqes_size, 0x10000000 /* IORING_OFF_SQES */) : NULL;
        if (!m->sqes) {
            int error = errno;
            noria_unmap_queues(m);
            errno = error;
            return -1;
        }
        m->sq_head = (uint32_t *)(m->memory + p->sq_off.head);
        m->sq_tail = (uint32_t *)(m->memory + p->sq_off.tail);
        m->sq_flags = (uint32_t *)(m->memory + p->sq_off.flags);
        m->cq_head = (uint32_t *)(m->memory + p->cq_off.head);
        m->cq_tail = (uint32_t *)(m->memory + p->cq_off.tail);
        m->cqes = (struct noria_cqe *)(m->memory + p->cq_off.cqes);
        m->sq_size = p->sq_entries;
        m->sq_mask = p->sq_entries - 1;
        m->cq_mask = p->cq_entries - 1;
        uint32_t *array = (uint32_t *)(m->memory + p->sq_off.array);
        for (uint32_t i = 0; i < m->sq_size; i++)
            array[i] = i;
        return 0;
    }
    #define noria_load(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
    #define noria_store(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
    """
    struct noria_sqe:
        uint8_t opcode, flags
        uint16_t ioprio
        int32_t fd
        uint64_t off, addr
        uint32_t len, op_flags
        uint64_t user_data
        uint16_t buf_group, personality
    struct noria_cqe:
        uint64_t user_data
        int32_t res
        uint32_t flags
    struct noria_sq_offsets:
        uint32_t head, tail, ring_mask, ring_entries, flags, dropped, array
    struct noria_cq_offsets:
        uint32_t head, tail, ring_mask, ring_entries, overflow, cqes, flags
    struct noria_params:
        uint32_t sq_entries, cq_entries, flags, features
        noria_sq_offsets sq_off
        noria_cq_offsets cq_off
    struct noria_buf:
        uint64_t addr
        uint32_t len
        uint16_t bid, tail
    struct noria_buf_reg:
        uint64_t ring_addr
        uint32_t ring_entries
        uint16_t bgid, flags
    struct noria_getevents_arg:
        uint64_t sigmask
        uint32_t sigmask_sz, min_wait_usec
        uint64_t ts
    struct noria_timespec:
        int64_t tv_sec
        long long tv_nsec
    # The two queues of a ring in this process's memory. `map_queues` returns 0, or -1 with errno.
    struct noria_queues:
        noria_sqe *sqes
        noria_cqe *cqes
        uint32_t *sq_head
        uint32_t *sq_tail
        uint32_t *sq_flags
        uint32_t *cq_head
        uint32_t *cq_tail
        uint32_t sq_mask, sq_size, cq_mask
    int map_queues "noria_map_queues"(noria_queues *m, int ring, const noria_params *p) nogil
    void unmap_queues "noria_unmap_queues"(noria_queues *m) nogil
    uint32_t load32 "noria_load"(uint32_t *p) nogil
    void store32 "noria_store"(uint32_t *p, uint32_t v) nogil
    void store16 "noria_store"(uint16_t *p, uint16_t v) nogil
    void *mmap(void *addr, size_t n, int prot, int flags, int fd, int64_t offset) nogil
    int munmap(void *addr, size_t n) nogil
    int PROT_READ, PROT_WRITE, MAP_SHARED, MAP_POPULATE, MAP_PRIVATE, MAP_ANONYMOUS
    void *MAP_FAILED

cdef enum:
    SYS_SETUP = 425
    SYS_ENTER = 426
    SYS_REGISTER = 427

    SETUP_CQSIZE = 1 << 3
    SETUP_R_DISABLED = 1 << 6
    SETUP_SUBMIT_ALL = 1 << 7
    SETUP_COOP_TASKRUN = 1 << 8
    SETUP_TASKRUN_FLAG = 1 << 9
    SETUP_SINGLE_ISSUER = 1 << 12
    SETUP_DEFER_TASKRUN = 1 << 13

    FEAT_SINGLE_MMAP = 1 << 0
    FEAT_NODROP = 1 << 1
    FEAT_EXT_ARG = 1 << 8

    ENTER_GETEVENTS = 1 << 0
    ENTER_EXT_ARG = 1 << 3
    ENTER_REGISTERED_RING = 1 << 4

    SQ_CQ_OVERFLOW = 1 << 1
    SQ_TASKRUN = 1 << 2

    REGISTER_ENABLE_RINGS = 12
    REGISTER_PBUF_RING = 22

    OP_NOP = 0
    OP_READV = 1
    OP_WRITEV = 2
    OP_FSYNC = 3
    OP_POLL_ADD = 6
    OP_POLL_REMOVE = 7
    OP_ACCEPT = 13
    OP_ASYNC_CANCEL = 14
    OP_CONNECT = 16
    OP_OPENAT = 18
    OP_CLOSE = 19
    OP_STATX = 21
    OP_READ = 22
    OP_WRITE = 23
    OP_SEND = 26
    OP_RECV = 27
    OP_RENAMEAT = 35
    OP_UNLINKAT = 36
    OP_MKDIRAT = 37

    SQE_IO_LINK = 1 << 2        # the next entry starts when this one has succeeded in full
    SQE_ASYNC = 1 << 4          # a kernel worker runs it, without a first attempt in the submitter
    SQE_BUFFER_SELECT = 1 << 5
    RECV_MULTISHOT = 1 << 1
    ACCEPT_MULTISHOT = 1 << 0
    CANCEL_ALL = 1 << 0
    CANCEL_ANY = 1 << 2
    FSYNC_DATASYNC = 1 << 0

    CQE_BUFFER = 1 << 0
    CQE_MORE = 1 << 1
    CQE_BUF_MORE = 1 << 4
    CQE_BUFFER_SHIFT = 16

    PBUF_RING_INC = 2
