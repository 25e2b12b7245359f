"""`noria compare`: every I/O model measured on this machine. Imports public noria only."""
