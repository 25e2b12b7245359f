"""What `put` sends: files, and directories with everything below them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from noria.errors import os_error_reason
from noria.transfer.errors import TransferError


@dataclass(frozen=True)
class Source:
    """A file, or a directory if its URL ends in "/". `error` is why it cannot be sent, or ""."""

    path: Path
    url: str
    error: str = ""


def find_sources(paths: list[Path], url: str) -> Iterator[Source]:
    """Yield what is to be sent, each directory before its contents.

    A URL that ends in "/" is a directory, and each path goes into it under its own name. Raises
    TransferError if several things would get the same name.
    """
    if not urlsplit(url).path:
        url += "/"
    into_directory = url.endswith("/")
    if not into_directory and len(paths) > 1:
        raise TransferError(
            f'several files can only go into a directory: end the URL in "/": {url}/'
        )
    if not into_directory and os.path.isdir(paths[0]):
        raise TransferError(
            f"{paths[0]} is a directory, which goes into another directory under its own name: "
            f'end the URL in "/": {url}/'
        )
    for path in paths:
        name = path.name or path.resolve().name  # "." and "dir/.." have a name too
        target = url + quote_name(name) if into_directory and name not in ("", "..") else url
        if os.path.isdir(path):
            yield from _walk(path.resolve() if name == ".." else path, f"{target.rstrip('/')}/")
        else:
            yield _file_source(path, target)


def _walk(path: Path, url: str) -> Iterator[Source]:
    """Yield a directory and everything below it. Links to directories are not followed."""
    waiting = [Source(path, url)]
    while waiting:  # not recursive: a tree may be deeper than Python's stack
        source = waiting.pop()
        yield source
        if not source.url.endswith("/") or source.error:
            continue
        try:
            with os.scandir(source.path) as found:
                entries = sorted(found, key=lambda entry: entry.name, reverse=True)
        except OSError as error:
            yield Source(source.path, source.url, f"cannot be listed: {os_error_reason(error)}")
            continue
        for entry in entries:
            url = source.url + quote_name(entry.name)
            waiting.append(_entry_source(source.path / entry.name, url, entry))


def _entry_source(path: Path, url: str, entry: os.DirEntry[str]) -> Source:
    try:
        if entry.is_dir(follow_symlinks=False):
            return Source(path, f"{url}/")
        if entry.is_dir():
            return Source(path, url, "is a symbolic link to a directory, which is not followed")
    except OSError as error:  # a symbolic link to itself
        return Source(path, url, os_error_reason(error))
    return _file_source(path, url)


def _file_source(path: Path, url: str) -> Source:
    """Return the Source of a regular file; of others with an error: a FIFO could block forever."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return Source(path, url, os_error_reason(error))
    return Source(path, url, "" if stat.S_ISREG(mode) else "is not a regular file")


def quote_name(name: str) -> str:
    """Return a file's name as a segment of a URL's path (RFC 3986), byte for byte."""
    return quote(os.fsencode(name), safe="")
