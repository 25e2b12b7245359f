"""What the kernel says about a descriptor's socket. Nothing is changed, so any thread may ask."""

from libc.stdint cimport uint16_t, uint32_t
from libc.string cimport memchr, memset

from noria._core.sys cimport (
    AF_INET, AF_INET6, AF_UNIX, SOCK_STREAM, SOL_SOCKET, getpeername, getsockname, getsockopt,
    sockaddr, sockaddr_storage, socklen_t,
)

cdef extern from "<sys/ioctl.h>" nogil:
    int ioctl(int fd, unsigned long request, ...)

cdef extern from "<linux/sockios.h>" nogil:
    unsigned long SIOCINQ, SIOCOUTQ

cdef extern from "<sys/socket.h>" nogil:
    int SO_TYPE, SO_ACCEPTCONN

cdef extern from "<netinet/in.h>" nogil:
    struct in_addr:
        uint32_t s_addr
    struct in6_addr:
        pass
    struct sockaddr_in:
        uint16_t sin_port
        in_addr sin_addr
    struct sockaddr_in6:
        uint16_t sin6_port
        in6_addr sin6_addr
    uint16_t ntohs(uint16_t number)

cdef extern from "<arpa/inet.h>" nogil:
    const char *inet_ntop(int family, const void *address, char *text, socklen_t size)

cdef extern from "<sys/un.h>" nogil:
    struct sockaddr_un:
        char *sun_path

cdef enum:
    PATH_OFFSET = 2     # of sun_path in sockaddr_un
    PATH_SIZE = 108


cdef str address_text(sockaddr_storage *address, socklen_t size):
    """Return "host:port", "[host]:port", a path, or "" for an unnamed Unix socket."""
    cdef char text[64]
    cdef const char *path
    cdef const char *end
    cdef Py_ssize_t length
    if address.ss_family == AF_INET:
        inet_ntop(AF_INET, &(<sockaddr_in *>address).sin_addr, text, sizeof(text))
        return f"{(<bytes>text).decode()}:{ntohs((<sockaddr_in *>address).sin_port)}"
    if address.ss_family == AF_INET6:
        inet_ntop(AF_INET6, &(<sockaddr_in6 *>address).sin6_addr, text, sizeof(text))
        return f"[{(<bytes>text).decode()}]:{ntohs((<sockaddr_in6 *>address).sin6_port)}"
    if address.ss_family == AF_UNIX:
        length = <Py_ssize_t>size - PATH_OFFSET
        if length <= 0:
            return ""
        length = min(length, <Py_ssize_t>PATH_SIZE)
        path = <const char *>address + PATH_OFFSET
        if path[0] == 0:    # abstract
            return "@" + path[1:length].decode("utf-8", "backslashreplace")
        end = <const char *>memchr(path, 0, length)
        if end != NULL:
            length = end - path
        return path[:length].decode("utf-8", "backslashreplace")
    return ""


def connection_state(int fd):
    """Return (peer, local, unread, unsent) of a connected stream socket; None for anything else.

    `unread` are the bytes that the kernel has received and the program has not (SIOCINQ), `unsent`
    those that the peer has not acknowledged (SIOCOUTQ): tcp(7), unix(7). Addresses are text.
    """
    cdef sockaddr_storage peer
    cdef sockaddr_storage local
    cdef socklen_t peer_size = sizeof(peer)
    cdef socklen_t local_size = sizeof(local)
    cdef socklen_t number_size = sizeof(int)
    cdef int number = 0
    cdef int unread = 0
    cdef int unsent = 0
    if getsockopt(fd, SOL_SOCKET, SO_TYPE, &number, &number_size) < 0 or number != SOCK_STREAM:
        return None
    memset(&peer, 0, sizeof(peer))
    memset(&local, 0, sizeof(local))
    if getpeername(fd, <sockaddr *>&peer, &peer_size) < 0:
        return None
    getsockname(fd, <sockaddr *>&local, &local_size)
    ioctl(fd, SIOCINQ, &unread)
    ioctl(fd, SIOCOUTQ, &unsent)
    return (address_text(&peer, peer_size), address_text(&local, local_size), unread, unsent)
