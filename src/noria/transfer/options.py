"""The options that all transfers of one command share."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TransferOptions:
    """What `get` and `put` take.

    `jobs` is the number of files at once, `retries` that of attempts in a row without progress.
    `auth` is a user and a password, `ca` a file of trusted certificates. `timeout` is in seconds:
    for a connection, for the head of a response, and between two pieces of its body.
    """

    jobs: int = 4
    retries: int = 5
    overwrite: bool = False
    auth: tuple[str | bytes, str | bytes] | None = None
    token: str | None = None
    ca: str | None = None
    timeout: float = 30.0
