"""The fast path: a plain GET of a small file that the kernel has in memory.

It needs neither a task nor a thread, and formats the response head once per version of a file. It
returns None for all other requests: the service handles them and reports their errors.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from noria._core.files.openat2 import read_small_file
from noria.fileserver.file_response import SMALL_FILE, file_fields
from noria.fileserver.request_paths import split_path
from noria.fileserver.root import Root
from noria.http.head import format_head
from noria.http.messages import HTTPException, Request

MAX_CACHED_HEADS = 4096
# Request fields with which the response may differ from the whole, unencoded file.
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
class FileStat:
    """The fields of os.stat_result that a response depends on."""

    st_ino: int
    st_size: int
    st_mtime_ns: int
    st_ctime_ns: int

    @property
    def st_mtime(self) -> float:
        return self.st_mtime_ns // 1_000_000_000


@dataclass(slots=True)
class CachedHead:
    """The response head for one version of a file, and its path relative to the root."""

    path: bytes
    packed_stat: bytes = b""
    head: bytes = b""


class FastPath:
    """Called with a request; returns (head without Date and Connection, body), or None."""

    def __init__(self, root: Root, inline_active: bool) -> None:
        self._root = root
        self._inline_active = inline_active
        self._cached: dict[str, CachedHead] = {}

    def __call__(self, request: Request) -> tuple[bytes, bytes] | None:
        if request.method != "GET" or request.query:
            return None
        for name, _ in request.headers.fields:
            if name in _SPECIAL:
                return None
        path = request.path
        cached = self._cached.get(path)
        if cached is None:
            if not self._root.cached or path.endswith("/") or path.startswith("/-/"):
                return None
            try:
                cached = CachedHead("/".join(split_path(path)).encode())
            except HTTPException:
                return None
        found = read_small_file(self._root.fd, cached.path, SMALL_FILE)
        if found is None:
            return None
        packed_stat, body = found
        if packed_stat != cached.packed_stat:
            self._store(path, cached, packed_stat)
        return cached.head, body

    def _store(self, path: str, cached: CachedHead, packed_stat: bytes) -> None:
        status = FileStat(*struct.unpack("4q", packed_stat))
        fields = file_fields(path.rpartition("/")[2], status, inline_active=self._inline_active)
        fields.append(("Content-Length", str(status.st_size)))
        fields.append(("X-Content-Type-Options", "nosniff"))
        cached.packed_stat, cached.head = packed_stat, format_head(200, fields)[:-2]
        if path not in self._cached and len(self._cached) >= MAX_CACHED_HEADS:
            del self._cached[next(iter(self._cached))]
        self._cached[path] = cached
