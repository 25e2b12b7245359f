"""The errors of a transfer: permanent, or worth another attempt."""

from __future__ import annotations

from noria.errors import NoriaError


class TransferError(NoriaError):
    """The transfer failed, and another attempt would fail too."""


class TargetExists(TransferError):
    """A file with this name exists already."""


class BadResponse(TransferError):
    """The server sent something malformed that the transfer depends on."""


class RetryableError(Exception):
    """The attempt failed, and another may succeed.

    `retry_after` is the server's minimum pause in seconds, 0 if it gave none.
    """

    def __init__(self, reason: str, retry_after: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after = retry_after
