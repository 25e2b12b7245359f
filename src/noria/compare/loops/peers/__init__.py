"""The programs that `noria compare loops` measures, and its load. Each runs as a process.

`server` and `micro` run on any event loop; they import noria's loop only if they are to run on it.
"""
