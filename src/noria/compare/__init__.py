"""`noria compare`: every I/O model measured on this machine.

Imports the public noria; exceptions are named in the packages below.
"""
