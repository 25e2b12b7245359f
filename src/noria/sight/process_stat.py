"""What the kernel says of a process in /proc/PID/stat."""

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
