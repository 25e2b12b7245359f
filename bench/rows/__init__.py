"""The rows of bench/loop.py, in table order.

Imports bench/harness.py, bench/memory.py and the load generator of noria.compare.
"""

from rows import alone, echo, http, others, tls

ROWS = (*echo.ROWS, *tls.ROWS, *http.ROWS, *others.ROWS, *alone.ROWS)
