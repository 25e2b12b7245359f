"""The file system of a directory, and whether it has a device."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

MOUNTS = Path("/proc/self/mountinfo")
MEMORY_FILE_SYSTEMS = ("tmpfs", "ramfs", "devtmpfs", "hugetlbfs")
REMOTE_FILE_SYSTEMS = ("nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "virtiofs")

NO_DEVICE = (
    "{} has no device: its files are in the page cache. fsync does nothing, the cache cannot be "
    "dropped, and direct=True uses the same memory. Choose another directory with --dir."
)
REMOTE_DEVICE = "{}: the device belongs to another machine, which reports what is written."


def find(directory: str, mounts: Path = MOUNTS) -> dict[str, Any]:
    """`directory`, `filesystem`, its `source`, whether it has a `device`, and a `note`.

    A value that /proc does not have is "unknown".
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
        fields, details = before.split(" "), after.split(" ")
        if len(fields) < 5 or len(details) < 2:
            continue
        point = _unescape(fields[4])
        # A later mount on the same directory hides the earlier one.
        if _below(path, point) and len(point) >= longest:
            kind, source, longest = details[0], _unescape(details[1]), len(point)
    note = ""
    if kind in MEMORY_FILE_SYSTEMS:
        note = NO_DEVICE.format(kind)
    elif kind in REMOTE_FILE_SYSTEMS or kind.startswith("fuse"):
        note = REMOTE_DEVICE.format(kind)
    return {
        "directory": path,
        "filesystem": kind,
        "source": source,
        "device": kind not in MEMORY_FILE_SYSTEMS,
        "note": note,
    }


def _below(path: str, point: str) -> bool:
    return path == point or path.startswith(point.rstrip("/") + "/")


def _unescape(field: str) -> str:
    """Decode the octal escapes of /proc/self/mountinfo, such as those of spaces."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)
