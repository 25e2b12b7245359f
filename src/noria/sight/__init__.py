"""Sight: what a running loop does, live and from a recording.

It reads the rings of `_core/recorder`; it imports `aio`, `reactor` and below.
"""
