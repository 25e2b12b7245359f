"""Patterns of pytest's test ids in which `*` stands for anything and nothing else is special."""

import functools
import re


@functools.cache
def _compiled(pattern):
    return re.compile(".*".join(re.escape(part) for part in pattern.split("*")), re.DOTALL)


def matches(pattern, nodeid):
    """Whether the pattern is the id of this test."""
    return _compiled(pattern).fullmatch(nodeid) is not None
