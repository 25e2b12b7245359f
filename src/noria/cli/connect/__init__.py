"""`noria connect`: a client for a terminal or a pipe.

May import everything but the packages of other commands.
"""
