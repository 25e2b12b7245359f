"""Where a directory is: its file system, and whether a device is behind it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

MOUNTS = Path("/proc/self/mountinfo")
MEMORY = ("tmpfs", "ramfs", "devtmpfs", "hugetlbfs")
ELSEWHERE = ("nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "virtiofs")

NO_DEVICE = (
    "{} has no device: the page cache is where its files are. fsync does nothing there, dropping "
    "the cache is not possible, and direct=True goes to the same memory. --dir names another place."
)
NOT_HERE = "{}: the device belongs to another machine; what is told of it is what that one says."


def find(directory: str, mounts: Path = MOUNTS) -> dict[str, Any]:
    """`directory`, `filesystem`, its `source`, whether it has a `device`, and a `note`.

    What /proc does not tell is "unknown".
    """
    path = os.path.realpath(directory)
    kind = source = "unknown"
    longest = -1
    try:
        lines = mounts.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        lines = []
    for line in lines:  # 36 35 98:0 /root /mount/point options - type source options: proc(5)
        before, _, after = line.partition(" - ")
        fields, about = before.split(" "), after.split(" ")
        if len(fields) < 5 or len(about) < 2:
            continue
        point = _plain(fields[4])
        # A later mount on the same directory hides the earlier one.
        if _below(path, point) and len(point) >= longest:
            kind, source, longest = about[0], _plain(about[1]), len(point)
    note = ""
    if kind in MEMORY:
        note = NO_DEVICE.format(kind)
    elif kind in ELSEWHERE or kind.startswith("fuse"):
        note = NOT_HERE.format(kind)
    return {
        "directory": path,
        "filesystem": kind,
        "source": source,
        "device": kind not in MEMORY,
        "note": note,
    }


def _below(path: str, point: str) -> bool:
    return path == point or path.startswith(point.rstrip("/") + "/")


def _plain(field: str) -> str:
    """Spaces and the like are written in octal there."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)
