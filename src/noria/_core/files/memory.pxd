from libc.stdint cimport int64_t

cpdef object in_memory(int fd, Py_ssize_t size, int64_t offset)
