"""`noria serve`: an echo server, a protocol of the user, or files."""
