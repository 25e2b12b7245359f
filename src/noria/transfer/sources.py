"""What is to be sent, and where to: files, and directories with all that is beneath them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from noria.transfer.errors import Failure


@dataclass(frozen=True)
class Item:
    """A file or (its URL ends in "/") a directory. `problem` says why it cannot be sent."""

    path: Path
    url: str
    problem: str = ""


def items(sources: list[Path], url: str) -> Iterator[Item]:
    """Each directory before what is in it. A URL that ends in "/" takes files under their names.

    Raises Failure if several things would go to one name.
    """
    if not urlsplit(url).path:
        url += "/"
    into = url.endswith("/")
    if not into and len(sources) > 1:
        raise Failure(f'several files can only go into a directory: end the URL in "/": {url}/')
    if not into and os.path.isdir(sources[0]):
        raise Failure(
            f"{sources[0]} is a directory, and goes into another under its own name: "
            f'end the URL in "/": {url}/'
        )
    for source in sources:
        name = source.name or source.resolve().name  # "." and "dir/.." have a name too
        target = url + quoted(name) if into and name not in ("", "..") else url
        if os.path.isdir(source):
            yield from tree(source.resolve() if name == ".." else source, f"{target.rstrip('/')}/")
        else:
            yield file(source, target)


def tree(path: Path, url: str) -> Iterator[Item]:
    """A directory and all beneath it, however deep; links to directories are not followed."""
    waiting = [Item(path, url)]
    while waiting:
        item = waiting.pop()
        yield item
        if not item.url.endswith("/") or item.problem:
            continue
        try:
            with os.scandir(item.path) as found:
                entries = sorted(found, key=lambda entry: entry.name, reverse=True)
        except OSError as error:
            yield Item(item.path, item.url, f"cannot be listed: {error.strerror}")
            continue
        waiting += [_item(item.path / each.name, item.url + quoted(each.name), each)
                    for each in entries]  # fmt: skip


def _item(path: Path, url: str, entry: os.DirEntry[str]) -> Item:
    try:
        if entry.is_dir(follow_symlinks=False):
            return Item(path, f"{url}/")
        if entry.is_dir():
            return Item(path, url, "is a symbolic link to a directory, which is not followed")
    except OSError as error:  # a symbolic link that leads to itself
        return Item(path, url, (error.strerror or str(error)).lower())
    return file(path, url)


def file(path: Path, url: str) -> Item:
    """A file, if it is one: a FIFO would be waited for without end."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return Item(path, url, (error.strerror or str(error)).lower())
    return Item(path, url, "" if stat.S_ISREG(mode) else "is not a regular file")


def quoted(name: str) -> str:
    """A file's name as a segment of a URL's path (RFC 3986), byte for byte."""
    return quote(os.fsencode(name), safe="")
