"""A directory as data."""

from __future__ import annotations

import json
import os
import stat
from typing import Any

from noria.fileserver.request_paths import usable
from noria.fileserver.root import Root, to_http_exception
from noria.http.messages import HTTPException


def entries(root: Root, path: str) -> list[dict[str, Any]]:
    """The files and directories in `path`, by name; `size` in bytes, `modified` since the epoch.

    What cannot be asked for is left out: devices, links that lead out, parts of uploads, names
    that no request may use. Raises HTTPException.
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
    if not usable(each.name) or (path == "/" and each.name == "-"):
        return None
    try:
        if each.is_symlink():
            status = root.stat(path + each.name)
        else:
            status = each.stat(follow_symlinks=False)
    except (OSError, HTTPException):
        return None  # it is gone, or the link leads out
    if stat.S_ISDIR(status.st_mode):
        kind, size = "directory", 0
    elif stat.S_ISREG(status.st_mode):
        kind, size = "file", status.st_size
    else:
        return None
    return {"name": each.name, "type": kind, "size": size, "modified": status.st_mtime}


def listing(root: Root, path: str, writable: bool) -> dict[str, Any]:
    """What the page and the JSON are made of. Raises HTTPException."""
    return {"path": path, "writable": writable, "entries": entries(root, path)}


def as_json(data: dict[str, Any]) -> bytes:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
