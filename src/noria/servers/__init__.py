"""Servers: a listening socket and a protocol for each connection, in one process or many."""
