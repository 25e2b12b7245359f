"""What the kernel says of a process in /proc/PID/stat, and of a thread in its schedstat."""

from __future__ import annotations


def stat_fields(pid: int) -> list[bytes]:
    """Return the fields of proc_pid_stat(5) from the third one, the state, on. Raises OSError."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        stat = file.read()
    # The name in parentheses, which may hold spaces and parentheses, stands before these fields.
    return stat.rpartition(b")")[2].split()


def is_alive(pid: int) -> bool:
    """Return whether a process exists and is no zombie."""
    try:
        return stat_fields(pid)[0] not in (b"Z", b"X")
    except OSError:
        return False


def schedstat(native_id: int) -> tuple[int, int]:
    """Return the ns that a thread of this process has run, and has waited for a free CPU.

    (0, 0) if the kernel does not say (Documentation/scheduler/sched-stats.rst).
    """
    try:
        with open(f"/proc/self/task/{native_id}/schedstat", "rb") as file:
            run, waited, *_ = file.read().split()
        return int(run), int(waited)
    except (OSError, ValueError):
        return 0, 0
