"""The tables and the HTML page of `noria compare`."""
