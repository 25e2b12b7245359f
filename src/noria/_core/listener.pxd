from noria._core.contract cimport Channel
from noria._core.loop cimport Loop
from noria._core.stream cimport StreamSet

cdef class Listener(Channel):
    cdef Loop loop
    cdef object factory
    cdef readonly StreamSet group
    cdef object address
    cdef object rest
    cdef bint tcp
    cdef bint warned
