"""`noria serve`: an echo server, a protocol of the user, or files.

May import everything but the packages of other commands.
"""
