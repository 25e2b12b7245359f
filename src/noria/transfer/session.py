"""What all transfers of one command share: the options, the connections, how progress is told."""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from noria._version import __version__
from noria.transfer.errors import Failure
from noria.transfer.http_client import Client
from noria.transfer.retry import reason

ERRORS = (Failure, OSError, httpx.HTTPError, httpx.InvalidURL)
"""What ends one transfer and not the others."""

BLOCK = 256 * 1024  # bytes read or sent at a time


@dataclass(frozen=True)
class Options:
    """`timeout` is in seconds, for a connection, the head of an answer, and silence in a body.

    `ca` is a file of certificates.
    """

    jobs: int = 4
    retries: int = 5
    overwrite: bool = False
    auth: tuple[str | bytes, str | bytes] | None = None
    token: str | None = None
    ca: str | None = None
    timeout: float = 30.0


class Bar:
    """The progress of one file. This one shows nothing."""

    def start(self, done: int, total: int | None) -> None:
        """It stands at `done` bytes of `total`, now and after each new beginning."""

    def advance(self, count: int) -> None:
        """`count` more bytes."""

    def note(self, text: str) -> None:
        """Something that the user should know of while it goes on."""

    def end(self, outcome: Outcome) -> None:
        """It has ended, well or not."""


@dataclass
class Outcome:
    """How one transfer ended: `status` is "done", "unchanged" (it was there) or "failed"."""

    name: str
    url: str
    status: str = "done"
    size: int = 0  # bytes of the whole file
    sent: int = 0  # bytes that went over the network in this run
    sha256: str = ""
    verified: bool = False  # the other side's SHA-256 was compared with ours
    seconds: float = 0.0
    error: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def connect(options: Options) -> Client:
    """An HTTP client. It asks for bodies as they are: a compressed one has other offsets.

    Raises Failure if the file of certificates or a proxy of the environment cannot be used.
    """
    headers = {"user-agent": f"noria/{__version__}", "accept-encoding": "identity"}
    if options.token:
        headers["authorization"] = f"Bearer {options.token}"
    try:
        verify = ssl.create_default_context(cafile=options.ca) if options.ca else True
    except OSError as error:
        words = error.strerror or str(error)
        raise Failure(f"{options.ca}: no certificates can be read from it: {words}") from None
    try:
        return Client(
            options.timeout,
            headers=headers,
            auth=options.auth,
            verify=verify,
            limits=httpx.Limits(max_connections=options.jobs + 2),
        )
    except (ValueError, ImportError, httpx.InvalidURL) as error:
        raise Failure(f"the proxy that the environment names cannot be used: {error}") from None


async def all_of(
    work: Iterable[tuple[Outcome, Bar, Callable[[Outcome, Bar], Awaitable[None]]]], jobs: int
) -> list[Outcome]:
    """Does all of it in `jobs` tasks; one transfer that fails does not stop the others.

    `work` is iterated over as they go.
    """
    outcomes: list[Outcome] = []
    waiting = iter(work)

    async def worker() -> None:
        for outcome, bar, do in waiting:  # shared by all workers
            outcomes.append(outcome)
            begun = time.monotonic()
            try:
                await do(outcome, bar)
            except ERRORS as error:
                outcome.status, outcome.error = "failed", explained(error, outcome.name)
            outcome.seconds = time.monotonic() - begun
            bar.end(outcome)

    async with asyncio.TaskGroup() as group:
        for _ in range(jobs):
            group.create_task(worker())
    return outcomes


def explained(error: Exception, name: str = "") -> str:
    """One of ERRORS in words; the system's name the file unless it is `name`."""
    if isinstance(error, Failure):
        return str(error)
    if not isinstance(error, OSError):
        return reason(error)
    words = (error.strerror or str(error)).lower()
    file = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else ""
    return f"{file}: {words}" if file and file != name else words


def is_directory(url: str) -> bool:
    """Whether the URL itself says so: its path ends in "/", or it has none; and no query."""
    parts = urlsplit(url)
    return not parts.query and (parts.path.endswith("/") or not parts.path)
