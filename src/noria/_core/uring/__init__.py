"""The ring of io_uring(7) and its ABI. Imports `_core` only."""
