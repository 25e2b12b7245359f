"""The shortest way to an answer: a plain GET of a small file that the kernel has in memory.

No task, no thread, and a head that is made once for each content of a file. Whatever is not that
plain is None here and takes the long way (service.py), which alone says what is wrong.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from noria._core.files.openat2 import read_small_file
from noria.fileserver.file_response import SMALL, fields_of
from noria.fileserver.request_paths import names
from noria.fileserver.root import Root
from noria.http.head import format_head
from noria.http.messages import HTTPException, Request

MANY = 4096  # files of which the head is kept
# Fields that make an answer another one than the whole file as it is.
_SPECIAL = frozenset(
    (
        "accept-encoding",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "if-unmodified-since",
        "range",
        "want-repr-digest",
    )
)


@dataclass(frozen=True, slots=True)
class Facts:
    """Of os.stat_result what an answer tells."""

    st_ino: int
    st_size: int
    st_mtime_ns: int
    st_ctime_ns: int

    @property
    def st_mtime(self) -> float:
        return self.st_mtime_ns // 1_000_000_000


@dataclass(slots=True)
class Kept:
    """A path that was answered: as the kernel takes it, and the head for what the file was."""

    path: bytes
    facts: bytes = b""
    head: bytes = b""


class Quick:
    """Called with a request: its head without Date and Connection, and its body; or None."""

    def __init__(self, root: Root, inline_active: bool) -> None:
        self._root = root
        self._inline_active = inline_active
        self._kept: dict[str, Kept] = {}

    def __call__(self, request: Request) -> tuple[bytes, bytes] | None:
        if request.method != "GET" or request.query:
            return None
        for name, _ in request.headers.fields:
            if name in _SPECIAL:
                return None
        path = request.path
        kept = self._kept.get(path)
        if kept is None:
            if not self._root.cached or path.endswith("/") or path.startswith("/-/"):
                return None
            try:
                kept = Kept("/".join(names(path)).encode())
            except HTTPException:
                return None
        found = read_small_file(self._root.fd, kept.path, SMALL)
        if found is None:
            return None
        facts, body = found
        if facts != kept.facts:
            self._keep(path, kept, facts)
        return kept.head, body

    def _keep(self, path: str, kept: Kept, facts: bytes) -> None:
        status = Facts(*struct.unpack("4q", facts))
        fields = fields_of(path.rpartition("/")[2], status, inline_active=self._inline_active)
        fields.append(("Content-Length", str(status.st_size)))
        fields.append(("X-Content-Type-Options", "nosniff"))
        kept.facts, kept.head = facts, format_head(200, fields)[:-2]
        if path not in self._kept and len(self._kept) >= MANY:
            del self._kept[next(iter(self._kept))]
        self._kept[path] = kept
