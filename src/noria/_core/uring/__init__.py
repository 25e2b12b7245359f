"""One io_uring(7) instance and the kernel's ABI for it, used for sockets and for files.

Imports `_core` only."""
