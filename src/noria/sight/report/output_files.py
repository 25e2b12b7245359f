"""Atomic writes of results: a reader sees the whole file, or the one before."""

from __future__ import annotations

import contextlib
import gzip
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

GZIP_LEVEL = 4  # levels above it take twice the time for a few percent


def write_whole(path: str | os.PathLike[str], parts: Iterable[str]) -> int:
    """Write text in UTF-8, compressed if the name ends with .gz; return the size of the file.

    An existing file is replaced once everything is written. A path that is no regular file, such
    as /dev/stdout, is written directly. Raises OSError that names the file.
    """
    try:
        return _write(Path(path), parts)
    except OSError as error:
        if error.filename is None:  # of a write, such as on a full disk
            error.filename = os.fspath(path)
        raise


def _write(target: Path, parts: Iterable[str]) -> int:
    if target.exists() and not target.is_file():
        with open(target, "w", encoding="utf-8") as stream:
            stream.writelines(parts)
        return 0
    # A symbolic link stays one.
    target = target.resolve()
    name = target.with_name(f".{target.name[:200]}.{secrets.token_hex(4)}.tmp")
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with open(fd, "wb") as file:
            if target.suffix == ".gz":
                with gzip.GzipFile(target.stem, "wb", GZIP_LEVEL, file, mtime=0) as packed:
                    packed.writelines(part.encode() for part in parts)
            else:
                file.writelines(part.encode() for part in parts)
        size = os.stat(name).st_size
        os.replace(name, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
    return size
