"""`noria compare` and `noria compare files`."""
