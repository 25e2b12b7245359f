"""The changes of a served directory, as the server reports them once they are durable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from noria.fileserver.request_paths import parent_directory


@dataclass(frozen=True, slots=True)
class Change:
    """A change that a request made, and that is on the disk.

    `path`: decoded, as in the URL; that of a directory ends in "/". `old_path`: the former path of
    what was moved. `size`: bytes of the file. `etag`: its entity tag. `sha256`: the digest, if the
    server has computed it. `overwritten`: whether a move replaced a file. `user`: the name with
    which the client has logged in, or "".
    """

    action: Literal["created", "replaced", "moved", "deleted"]
    path: str
    size: int = 0
    etag: str = ""
    sha256: bytes | None = None
    old_path: str = ""
    overwritten: bool = False
    user: str = ""

    @property
    def is_directory(self) -> bool:
        return self.path.endswith("/")

    @property
    def directories(self) -> list[str]:
        """The directories whose entries changed."""
        return changed_directories(self.path, self.old_path)


def changed_directories(path: str, old_path: str = "") -> list[str]:
    """The directories of the former path, if any, and of the path."""
    found = [parent_directory(old_path)] if old_path else []
    if parent_directory(path) not in found:
        found.append(parent_directory(path))
    return found
