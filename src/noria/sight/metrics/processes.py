"""Which processes one scrape shows: this one, and the watched worker processes it belongs with."""

from __future__ import annotations

import os
from pathlib import Path

from noria.sight.process_stat import stat_fields
from noria.sight.socket_directory import watched_processes


def parent_of(pid: int) -> int:
    """Return the parent's process id (proc_pid_stat(5)); 0 if there is no such process."""
    try:
        return int(stat_fields(pid)[1])
    except OSError:
        return 0


def descends_from(pid: int, ancestor: int) -> bool:
    """Whether `ancestor` is the parent of `pid`, or an ancestor further up."""
    while pid > 1:
        pid = parent_of(pid)
        if pid == ancestor:
            return True
    return False


def watched_descendants(ancestor: int) -> dict[int, Path]:
    """Return the sockets of the watched processes below `ancestor`, by process id."""
    return {pid: path for pid, path in watched_processes().items() if descends_from(pid, ancestor)}


def supervisor_of(pid: int) -> int:
    """Return the parent if it is the supervisor of several workers, otherwise `pid`.

    It is one if it runs the same program (the Python interpreter) in the same process group: so do
    uvicorn and gunicorn, and a shell does not.
    """
    parent = parent_of(pid)
    try:
        same_program = os.path.samefile(f"/proc/{parent}/exe", f"/proc/{pid}/exe")
        same_group = os.getpgid(parent) == os.getpgid(pid)
    except OSError:
        return pid
    return parent if same_program and same_group else pid
