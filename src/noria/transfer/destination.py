"""Where a download is written: the interface, and the one for pipes and devices."""

from __future__ import annotations

import hashlib
from typing import BinaryIO, Protocol

from noria.transfer.errors import TransferError


class Destination(Protocol):
    """Receives a file's bytes in order. It has `size` bytes, of the representation `etag`."""

    size: int
    etag: str

    def restart(self, etag: str) -> None:
        """Discard what was written; the bytes that follow are of another representation."""

    def write(self, block: bytes) -> None: ...

    def sha256(self) -> str:
        """Return the SHA-256 of what was written, in hexadecimal."""

    def finish(self, overwrite: bool, modified: float | None) -> None:
        """The file is complete and verified; `modified` is its date in seconds since the epoch."""

    def close(self) -> None: ...


class PipeDestination:
    """Standard output, a FIFO or a device: what was written cannot be discarded."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self.size, self.etag = 0, ""

    def restart(self, etag: str) -> None:
        if self.size:
            raise TransferError("the connection was lost, and the server cannot resume the file")
        self.etag = etag

    def write(self, block: bytes) -> None:
        self._file.write(block)
        self.size += len(block)
        self._sha256.update(block)

    def sha256(self) -> str:
        return self._sha256.hexdigest()

    def finish(self, overwrite: bool, modified: float | None) -> None:
        self._file.flush()

    def close(self) -> None:
        """Do nothing: the caller that opened the file closes it."""
