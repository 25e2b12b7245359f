"""What the core needs of libc and the kernel.

Constants of epoll and io_uring stand here as numbers (they are ABI and cannot change), so that
noria builds where the kernel's headers are older than the kernel. Sources: epoll_ctl(2), recv(2),
socket(7), and the kernel's uapi headers.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef extern from "<errno.h>" nogil:
    int errno
    int EAGAIN, EWOULDBLOCK, EINTR, EINPROGRESS, ECONNRESET, EPIPE, ENOBUFS, ENOMEM, EMFILE, ENFILE
    int ECANCELED, EBADF, EPERM, ENOENT, ENOSYS, EINVAL, EIO, ETIME, EBUSY, ECONNABORTED, EPROTO
    int ENOTCONN, EEXIST, EALREADY, EOPNOTSUPP, EACCES, EMSGSIZE, ECONNREFUSED, ETIMEDOUT
    int ENOSPC, EDQUOT, EFBIG

cdef extern from "<sys/types.h>" nogil:
    ctypedef long ssize_t

cdef extern from "<sys/socket.h>" nogil:
    ctypedef unsigned int socklen_t
    struct sockaddr:
        unsigned short sa_family
    struct sockaddr_storage:
        unsigned short ss_family
    struct iovec:
        void *iov_base
        size_t iov_len
    struct msghdr:
        void *msg_name
        socklen_t msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
        int msg_flags
    int SOCK_NONBLOCK, SOCK_CLOEXEC, SOCK_STREAM
    int MSG_DONTWAIT, MSG_NOSIGNAL, MSG_PEEK
    int SOL_SOCKET, SO_ERROR, SO_RCVTIMEO, SHUT_WR, SHUT_RDWR, SHUT_RD
    int AF_INET, AF_INET6, AF_UNIX
    ssize_t recv(int fd, void *buf, size_t n, int flags)
    ssize_t c_send "send"(int fd, const void *buf, size_t n, int flags)
    ssize_t sendmsg(int fd, const msghdr *msg, int flags)
    ssize_t recvfrom(int fd, void *buf, size_t n, int flags, sockaddr *addr, socklen_t *len)
    ssize_t sendto(int fd, const void *buf, size_t n, int flags, const sockaddr *addr,
                   socklen_t len)
    int accept4(int fd, sockaddr *addr, socklen_t *len, int flags)
    int c_connect "connect"(int fd, const sockaddr *addr, socklen_t len)
    int getpeername(int fd, sockaddr *addr, socklen_t *len)
    int getsockname(int fd, sockaddr *addr, socklen_t *len)
    int c_shutdown "shutdown"(int fd, int how)
    int setsockopt(int fd, int level, int name, const void *value, socklen_t len)
    int getsockopt(int fd, int level, int name, void *value, socklen_t *len)

cdef extern from "<netinet/in.h>" nogil:
    int IPPROTO_TCP

cdef extern from "<netinet/tcp.h>" nogil:
    int TCP_NODELAY

cdef extern from "<unistd.h>" nogil:
    int c_close "close"(int fd)
    int c_dup3 "dup3"(int fd, int number, int flags)
    ssize_t c_read "read"(int fd, void *buf, size_t n)
    ssize_t c_write "write"(int fd, const void *buf, size_t n)
    ssize_t c_pread "pread"(int fd, void *buf, size_t n, int64_t offset)
    ssize_t c_pwrite "pwrite"(int fd, const void *buf, size_t n, int64_t offset)
    int c_fsync "fsync"(int fd)
    int getpid()
    long c_syscall "syscall"(long number, ...)

cdef extern from "<fcntl.h>" nogil:
    int c_fcntl "fcntl"(int fd, int command, ...)
    int F_GETFL, F_SETFL, F_GETFD, O_NONBLOCK, O_CLOEXEC

cdef extern from "<sys/time.h>" nogil:
    struct timeval:
        long tv_sec
        long tv_usec

cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *now)
    int CLOCK_MONOTONIC, CLOCK_MONOTONIC_COARSE, CLOCK_REALTIME

cdef extern from "<sys/select.h>" nogil:
    ctypedef struct fd_set:
        pass
    int c_select "select"(int nfds, fd_set *r, fd_set *w, fd_set *e, timeval *timeout)

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int c_ppoll "ppoll"(pollfd *fds, unsigned long n, const timespec *timeout, void *mask)
    int POLLIN, POLLOUT, POLLERR, POLLHUP, POLLNVAL, POLLPRI

cdef extern from "<sys/mman.h>" nogil:
    void *mmap(void *place, size_t size, int protection, int flags, int fd, long offset)
    int munmap(void *place, size_t size)
    int PROT_READ, PROT_WRITE, MAP_SHARED
    void *MAP_FAILED

cdef extern from "Python.h":
    # The kernel's number of the thread. CPython's own, pthread_self(), is reused for the next
    # thread, which is another task to the kernel.
    unsigned long thread_native_id "PyThread_get_thread_native_id"() noexcept

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        void *ptr
        int fd
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int c_epoll_ctl "epoll_ctl"(int epfd, int op, int fd, epoll_event *event)
    int epoll_pwait(int epfd, epoll_event *events, int n, int timeout_ms, const void *mask)

cdef enum:
    EPOLL_CTL_ADD = 1
    EPOLL_CTL_DEL = 2
    EPOLL_CTL_MOD = 3
    EPOLLIN = 0x001
    EPOLLPRI = 0x002
    EPOLLOUT = 0x004
    EPOLLERR = 0x008
    EPOLLHUP = 0x010
    EPOLLRDHUP = 0x2000
    EPOLL_CLOEXEC = 0o2000000
    EPOLLET = 0x80000000
    SYS_EPOLL_PWAIT2 = 441  # Linux 5.11: a timeout in nanoseconds

cdef inline int64_t monotonic_ns() noexcept nogil:
    """CLOCK_MONOTONIC in nanoseconds: the clock of time.monotonic()."""
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t>now.tv_sec * 1000000000 + now.tv_nsec

cdef inline int64_t coarse_ns() noexcept nogil:
    """The same clock at the kernel's tick (1 to 10 ms), at a fifth of the cost."""
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now)
    return <int64_t>now.tv_sec * 1000000000 + now.tv_nsec
