from noria._core.contract cimport Channel
from noria._core.loop cimport Loop
from noria._core.stream cimport Group

cdef class Listener(Channel):
    cdef Loop loop
    cdef object factory
    cdef readonly Group group
    cdef object address
    cdef object rest
    cdef bint tcp
    cdef bint warned
