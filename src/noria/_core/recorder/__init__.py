"""The recorder: a ring of fixed-size binary events for each loop, written in the loop's hot path.

It also reads and summarises rings and recordings. It imports only `_core` modules and `errors`.
"""
