"""The load generator: compiled clients that measure a server.

Imports only noria.errors, and noria._core to report a failed import with its reason.
"""
