"""File operations in Cython: requests on an io_uring ring, reads from the page cache, splice.

Imports `_core` and `_core.uring` only."""
