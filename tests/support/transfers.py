"""Downloads and uploads with the small file server, for tests."""

from __future__ import annotations

from pathlib import Path

import noria
from noria.transfer import get as downloads
from noria.transfer import put as uploads
from noria.transfer.options import TransferOptions
from noria.transfer.progress import ProgressReporter

DATA = bytes(range(256)) * 12_000  # 3 MB: over what one PUT sends


def get(server, path, output, *, recursive=False, new_reporter=None, **options):
    """Download a path of the server, or several, and return the outcomes."""
    paths = [path] if isinstance(path, str) else path
    return noria.run(
        downloads.get(
            [server.url + each for each in paths],
            output,
            TransferOptions(**options),
            recursive=recursive,
            new_reporter=new_reporter or (lambda _: ProgressReporter()),
        )
    )


def put(server, source, path, **options):
    """Upload a file, or several, to a path of the server, and return the outcomes."""
    sources = source if isinstance(source, list) else [source]
    return noria.run(uploads.put(sources, server.url + path, TransferOptions(**options)))


def names(directory: Path):
    """Return the paths of everything below a directory, sorted."""
    return sorted(str(each.relative_to(directory)) for each in directory.rglob("*"))


class Messages(ProgressReporter):
    """Collects the messages of all transfers."""

    def __init__(self):
        self.texts: list[str] = []

    def message(self, text):
        self.texts.append(text)
