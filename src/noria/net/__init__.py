"""Addresses, listening sockets and connecting. Imports `_core` only."""
