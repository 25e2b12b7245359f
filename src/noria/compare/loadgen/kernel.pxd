# cython: language_level=3
"""The C library's declarations for the load generator: clock, sockets, epoll(7)."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef extern from "<sys/types.h>" nogil:
    ctypedef long ssize_t

cdef extern from "<time.h>" nogil:
    ctypedef int clockid_t
    ctypedef long time_t
    cdef struct timespec:
        time_t tv_sec
        long tv_nsec
    int CLOCK_MONOTONIC
    int clock_gettime(clockid_t clock, timespec* now)
    int nanosleep(const timespec* pause, timespec* left)

cdef extern from "<unistd.h>" nogil:
    int close(int fd)

cdef extern from "<sys/uio.h>" nogil:
    cdef struct iovec:
        void* iov_base
        size_t iov_len

cdef extern from "<sys/socket.h>" nogil:
    int AF_INET
    int AF_INET6
    int AF_UNIX
    int SOCK_STREAM
    int SOCK_NONBLOCK
    int SOCK_CLOEXEC
    int SOL_SOCKET
    int SO_ERROR
    int MSG_DONTWAIT
    int MSG_NOSIGNAL
    int MSG_PEEK
    ctypedef unsigned int socklen_t
    cdef struct sockaddr:
        pass
    cdef struct sockaddr_storage:
        unsigned short ss_family
    cdef struct msghdr:
        iovec* msg_iov
        size_t msg_iovlen
    int socket(int family, int kind, int protocol)
    int connect(int fd, const sockaddr* address, socklen_t length)
    ssize_t recv(int fd, void* buffer, size_t length, int flags)
    ssize_t send(int fd, const void* buffer, size_t length, int flags)
    ssize_t sendmsg(int fd, const msghdr* message, int flags)
    int getsockopt(int fd, int level, int option, void* value, socklen_t* length)
    int setsockopt(int fd, int level, int option, const void* value, socklen_t length)

cdef extern from "<netinet/in.h>" nogil:
    cdef struct in_addr:
        uint32_t s_addr
    cdef struct in6_addr:
        unsigned char s6_addr[16]
    cdef struct sockaddr_in:
        unsigned short sin_family
        unsigned short sin_port
        in_addr sin_addr
    cdef struct sockaddr_in6:
        unsigned short sin6_family
        unsigned short sin6_port
        uint32_t sin6_flowinfo
        in6_addr sin6_addr
        uint32_t sin6_scope_id
    unsigned short htons(unsigned short value)
    uint32_t htonl(uint32_t value)
    int IPPROTO_TCP

cdef extern from "<netinet/tcp.h>" nogil:
    int TCP_NODELAY

cdef extern from "<sys/un.h>" nogil:
    cdef struct sockaddr_un:
        unsigned short sun_family
        char sun_path[108]

cdef extern from "<sys/epoll.h>" nogil:
    uint32_t EPOLLIN
    uint32_t EPOLLOUT
    int EPOLL_CLOEXEC
    int EPOLL_CTL_ADD
    int EPOLL_CTL_MOD
    int EPOLL_CTL_DEL
    ctypedef union epoll_data_t:
        uint64_t u64
    cdef struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int operation, int fd, epoll_event* event)
    int epoll_wait(int epfd, epoll_event* events, int room, int timeout_ms)

cdef enum:
    NS_PER_MS = 1000000
    SLICE_NS = 100000000  # 100 ms: the longest time between two checks for signals
    EPOLL_BATCH = 256     # events per epoll_wait


cdef inline int64_t clock() noexcept nogil:
    """Nanoseconds of CLOCK_MONOTONIC."""
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t>now.tv_sec * 1000000000 + now.tv_nsec
