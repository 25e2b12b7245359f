"""`noria put` and `noria get`."""
