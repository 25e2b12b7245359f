"""`noria models`: the I/O models in tables, and a page for each."""
