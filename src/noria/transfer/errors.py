"""The errors of a transfer: final, or worth another attempt."""

from __future__ import annotations

from noria.errors import NoriaError


class Failure(NoriaError):
    """The file cannot be sent or fetched, and trying again would not help."""


class Exists(Failure):
    """A file has that name already."""


class BadResponse(Failure):
    """The server sent something malformed that the transfer depends on."""


class Passing(Exception):
    """It failed, and may go well later; not before `after` seconds, if the server said so."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after
