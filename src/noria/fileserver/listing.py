"""The listing of a directory as data, for the page and for JSON."""

from __future__ import annotations

import json
import os
import stat
from typing import Any

from noria.fileserver.request_paths import is_valid_name
from noria.fileserver.root import Root, to_http_exception
from noria.http.messages import HTTPException


def entries(root: Root, path: str) -> list[dict[str, Any]]:
    """The files and directories in `path`, sorted by name.

    `size` is in bytes, `modified` in seconds since the epoch. Entries that no request can open are
    skipped: devices, symlinks that lead out, uploads under way, invalid names. Raises
    HTTPException.
    """
    fd = root.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with os.scandir(fd) as found:
            listed = [entry for each in found if (entry := _entry(root, path, each)) is not None]
    except OSError as error:
        raise to_http_exception(error) from None
    finally:
        os.close(fd)
    return sorted(listed, key=lambda entry: entry["name"])


def _entry(root: Root, path: str, each: os.DirEntry[str]) -> dict[str, Any] | None:
    if not is_valid_name(each.name) or (path == "/" and each.name == "-"):
        return None
    try:
        if each.is_symlink():
            status = root.stat(path + each.name)
        else:
            status = each.stat(follow_symlinks=False)
    except (OSError, HTTPException):
        return None  # removed meanwhile, or the symlink leads out
    if stat.S_ISDIR(status.st_mode):
        kind, size = "directory", 0
    elif stat.S_ISREG(status.st_mode):
        kind, size = "file", status.st_size
    else:
        return None
    return {"name": each.name, "type": kind, "size": size, "modified": status.st_mtime}


def listing(root: Root, path: str, writable: bool) -> dict[str, Any]:
    """The data of the page and of the JSON document. Raises HTTPException."""
    return {"path": path, "writable": writable, "entries": entries(root, path)}


def as_json(data: dict[str, Any]) -> bytes:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
