"""A hash table from 64-bit keys to numbers: open addressing, linear probes, no lock, no Python."""

from libc.stdint cimport int32_t, uint64_t
from libc.stdlib cimport calloc, free

cdef enum:
    NOT_FOUND = -1

cdef struct Table:
    uint64_t *keys
    int32_t *values         # the value + 1; 0: free
    size_t mask
    int shift
    size_t count

cdef inline bint table_allocate(Table *table, int bits) noexcept nogil:
    table.keys = <uint64_t *>calloc(<size_t>1 << bits, sizeof(uint64_t))
    table.values = <int32_t *>calloc(<size_t>1 << bits, sizeof(int32_t))
    table.mask = (<size_t>1 << bits) - 1
    table.shift = 64 - bits
    table.count = 0
    return table.keys != NULL and table.values != NULL

cdef inline void table_free(Table *table) noexcept nogil:
    free(table.keys)
    free(table.values)
    table.keys = NULL
    table.values = NULL

cdef inline size_t table_place(Table *table, uint64_t key) noexcept nogil:
    return <size_t>((key * <uint64_t>0x9e3779b97f4a7c15) >> table.shift)

cdef inline int32_t table_get(Table *table, uint64_t key) noexcept nogil:
    cdef size_t place = table_place(table, key)
    while table.values[place]:
        if table.keys[place] == key:
            return table.values[place] - 1
        place = (place + 1) & table.mask
    return NOT_FOUND

cdef inline void table_insert(Table *table, uint64_t key, int32_t value) noexcept nogil:
    cdef size_t place = table_place(table, key)
    while table.values[place]:
        if table.keys[place] == key:
            table.values[place] = value + 1
            return
        place = (place + 1) & table.mask
    table.keys[place] = key
    table.values[place] = value + 1
    table.count += 1

cdef inline bint table_set(Table *table, uint64_t key, int32_t value) noexcept nogil:
    """Set a value; return whether there was memory for it."""
    cdef Table larger
    cdef size_t place
    if table.count * 2 > table.mask:
        if not table_allocate(&larger, 65 - table.shift):
            table_free(&larger)
            return False
        for place in range(table.mask + 1):
            if table.values[place]:
                table_insert(&larger, table.keys[place], table.values[place] - 1)
        table_free(table)
        table[0] = larger
    table_insert(table, key, value)
    return True

cdef inline void table_delete(Table *table, uint64_t key) noexcept nogil:
    cdef size_t place = table_place(table, key)
    cdef size_t other, home
    while table.values[place] and table.keys[place] != key:
        place = (place + 1) & table.mask
    if not table.values[place]:
        return
    table.count -= 1
    # Move later entries of the chain back, so that no search stops before them.
    other = place
    while True:
        other = (other + 1) & table.mask
        if not table.values[other]:
            break
        home = table_place(table, table.keys[other])
        if ((other - home) & table.mask) >= ((other - place) & table.mask):
            table.keys[place] = table.keys[other]
            table.values[place] = table.values[other]
            place = other
    table.values[place] = 0
