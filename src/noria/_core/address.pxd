"""Socket addresses in the form that the socket module uses."""

cdef extern from *:
    """
    #include <arpa/inet.h>
    #include <netinet/in.h>
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
    """
    object noria_address(void *address, unsigned length)
