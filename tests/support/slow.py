"""Which tests the README's test command skips, as they take long: NORIA_SLOW=1 runs them.

They start browsers, many processes, or repeat much. `nox -s slow` runs them alone.
"""

from __future__ import annotations

import os
from fnmatch import fnmatch

ENABLED = bool(os.environ.get("NORIA_SLOW"))

# Patterns of test ids, below tests/.
SLOW = (
    "cli/test_cli_serve.py::*",
    "cli/test_cli_serve_files.py::*",
    "cli/test_cli_transfer.py::*",
    "compare/*",
    "fileserver/test_fileserver_page.py::*",
    "fileserver/test_fileserver_trees.py::*",
    "sight/test_attach_detach.py::*",
    "sight/test_pytest_plugin.py::*",
    "sight/test_report_page.py::*",
    "sight/test_top_app.py::*",
    "sight/test_troubles.py::*",
    "transfer/test_get.py::*",
    "transfer/test_hostile_server.py::*",
    "transfer/test_part_file.py::*",
    "transfer/test_put.py::*",
)


def is_slow(nodeid: str) -> bool:
    """Whether a test is one of them."""
    name = nodeid.removeprefix("tests/").partition("[")[0]
    return any(fnmatch(name, pattern) for pattern in SLOW)
