"""The measurements of `noria compare`; server and clients run in child processes.

Imports loadgen and the public noria.
"""
