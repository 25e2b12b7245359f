"""Which tests the README's test command skips, as they take long: NORIA_SLOW=1 runs them.

They start browsers, many processes, or repeat much. `nox -s slow` runs them alone.
"""

from __future__ import annotations

import os
from fnmatch import fnmatch

ENABLED = bool(os.environ.get("NORIA_SLOW"))

# Patterns of test ids, below tests/.
SLOW: tuple[str, ...] = ()


def is_slow(nodeid: str) -> bool:
    """Whether a test is one of them."""
    name = nodeid.removeprefix("tests/").partition("[")[0]
    return any(fnmatch(name, pattern) for pattern in SLOW)
