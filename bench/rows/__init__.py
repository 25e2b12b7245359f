"""The rows of bench/loop.py, in the order of its table."""

from rows import alone, echo, http, others, tls

ROWS = (*echo.ROWS, *tls.ROWS, *http.ROWS, *others.ROWS, *alone.ROWS)
