"""Which test files are not part of a run of the whole suite, because they take long.

They start browsers or many processes. They run if they, or a folder of theirs, are named on the
command line, and with NORIA_SLOW=1; NORIA_SLOW=only runs nothing else, as `nox -s slow` does.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

TESTS = Path(__file__).parents[1]

FILES = frozenset(
    [
        *(TESTS / "compare").glob("test_*.py"),
        *(
            TESTS / name
            for name in (
                "cli/test_cli_serve.py",
                "cli/test_cli_serve_files.py",
                "cli/test_cli_transfer.py",
                "fileserver/test_fileserver_full_disk.py",
                "fileserver/test_fileserver_kill.py",
                "fileserver/test_fileserver_kill_splice.py",
                "fileserver/test_fileserver_page.py",
                "fileserver/test_fileserver_stalled.py",
                "fileserver/test_fileserver_trees.py",
                "servers/test_serve.py",
                "sight/test_attach_detach.py",
                "sight/test_pytest_plugin.py",
                "sight/test_report_page.py",
                "sight/test_top_app.py",
                "sight/test_troubles.py",
                "transfer/test_get.py",
                "transfer/test_hostile_server.py",
                "transfer/test_part_file.py",
                "transfer/test_put.py",
            )
        ),
    ]
)


def is_left_out(path: Path, arguments: Iterable[str]) -> bool:
    """Whether a file is not collected; `arguments` are the paths on pytest's command line."""
    chosen = os.environ.get("NORIA_SLOW", "")
    if path not in FILES:
        return chosen == "only" and path.name.startswith("test_")
    named = (Path(argument.partition("::")[0]).resolve() for argument in arguments)
    return not chosen and not any(
        path.is_relative_to(each) and each.is_relative_to(TESTS) and each != TESTS for each in named
    )
