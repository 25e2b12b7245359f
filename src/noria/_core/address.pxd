"""Socket addresses in the form that the socket module uses."""

from noria._core.sys cimport sockaddr_storage, socklen_t

cdef extern from *:
    """
    #include <arpa/inet.h>
    #include <netinet/in.h>
    #include <sys/socket.h>
    #include <sys/un.h>
    #include <stddef.h>

    static PyObject *noria_address(void *p, unsigned length) {
        struct sockaddr *a = p;
        char text[INET6_ADDRSTRLEN];
        if (length < sizeof(sa_family_t)) Py_RETURN_NONE;
        if (a->sa_family == AF_INET) {
            struct sockaddr_in *in = p;
            inet_ntop(AF_INET, &in->sin_addr, text, sizeof text);
            return Py_BuildValue("(si)", text, (int)ntohs(in->sin_port));
        }
        if (a->sa_family == AF_INET6) {
            struct sockaddr_in6 *in = p;
            inet_ntop(AF_INET6, &in->sin6_addr, text, sizeof text);
            return Py_BuildValue("(siII)", text, (int)ntohs(in->sin6_port),
                                 ntohl(in->sin6_flowinfo), in->sin6_scope_id);
        }
        if (a->sa_family == AF_UNIX) {
            struct sockaddr_un *un = p;
            size_t n = length - offsetof(struct sockaddr_un, sun_path);
            if (n == 0) return PyUnicode_FromString("");
            if (un->sun_path[0] == 0) return PyBytes_FromStringAndSize(un->sun_path, n);
            return PyUnicode_DecodeFSDefaultAndSize(un->sun_path, strnlen(un->sun_path, n));
        }
        Py_RETURN_NONE;
    }

    /* Get the peer's address, also of a connection that the peer has reset. getpeername(2) needs an
       established one. SO_PEERNAME does not, but its length must not exceed the address's. */
    static int noria_peer_address(int fd, struct sockaddr_storage *a, socklen_t *length) {
        if (getpeername(fd, (struct sockaddr *)a, length) == 0) return 1;
    #ifdef SO_PEERNAME
        *length = sizeof(struct sockaddr_in);
        if (getsockopt(fd, SOL_SOCKET, SO_PEERNAME, a, length) < 0) return 0;
        if (a->ss_family == AF_INET) return 1;
        *length = sizeof(struct sockaddr_in6);
        return a->ss_family == AF_INET6
            && getsockopt(fd, SOL_SOCKET, SO_PEERNAME, a, length) == 0;
    #else
        return 0;
    #endif
    }
    """
    object noria_address(void *address, unsigned length)
    bint peer_address "noria_peer_address"(int fd, sockaddr_storage *address,
                                           socklen_t *length) noexcept
