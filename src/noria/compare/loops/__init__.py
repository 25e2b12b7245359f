"""`noria compare loops`: asyncio programs on several event loops, interleaved and paired.

`run` measures rows, `rows` defines them, `peers` has the measured programs. Imports measure, report
and loadgen. bench/ measures its own rows with the same `row`, `found` and `run`.
"""
