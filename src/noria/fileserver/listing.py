"""A directory as data, and as a page where there is no better one."""

from __future__ import annotations

import importlib
import json
import os
import stat
from html import escape
from typing import Any

from noria.fileserver.messages import Problem
from noria.fileserver.names import url, usable
from noria.fileserver.paths import Root, problem


def entries(root: Root, path: str) -> list[dict[str, Any]]:
    """The files and directories in `path`, by name; `size` in bytes, `modified` since the epoch.

    What cannot be asked for is left out: devices, links that lead out, parts of uploads, names
    that no request may use. Raises Problem.
    """
    fd = root.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with os.scandir(fd) as found:
            listed = [entry for each in found if (entry := _entry(root, path, each)) is not None]
    except OSError as error:
        raise problem(error) from None
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
    except (OSError, Problem):
        return None  # it is gone, or the link leads out
    if stat.S_ISDIR(status.st_mode):
        kind, size = "directory", 0
    elif stat.S_ISREG(status.st_mode):
        kind, size = "file", status.st_size
    else:
        return None
    return {"name": each.name, "type": kind, "size": size, "modified": status.st_mtime}


def listing(root: Root, path: str, writable: bool) -> dict[str, Any]:
    """What the page and the JSON are made of. Raises Problem."""
    return {"path": path, "writable": writable, "entries": entries(root, path)}


def as_json(data: dict[str, Any]) -> bytes:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def as_page(data: dict[str, Any], *, uploads: bool) -> bytes:
    """HTML: `noria.fileserver.page` makes it, or a plain list if that cannot be imported."""
    try:
        better = importlib.import_module("noria.fileserver.page")
    except ImportError:  # it, or the templates that it uses, are not installed
        return plain_page(data)
    made: bytes = better.page(data, uploads=uploads)
    return made


def plain_page(data: dict[str, Any]) -> bytes:
    """The names as links, and nothing more."""
    path = data["path"]
    names = [e["name"] + ("/" if e["type"] == "directory" else "") for e in data["entries"]]
    if path != "/":
        names.insert(0, "../")
    items = "".join(f'<li><a href="{escape(_relative(n))}">{escape(n)}</a></li>\n' for n in names)
    title = escape(path)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
        f'<meta name="viewport" content="width=device-width"></head>\n'
        f"<body><h1>{title}</h1>\n<ul>\n{items}</ul></body></html>\n"
    ).encode()


def _relative(name: str) -> str:
    """A name with a colon is no scheme."""
    return name if name == "../" else "./" + url(name)
