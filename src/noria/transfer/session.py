"""The HTTP client of one command, and its transfers, several at a time."""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable

import httpx

from noria._version import __version__
from noria.errors import os_error_reason
from noria.transfer.connection_errors import describe_http_error
from noria.transfer.errors import TransferError
from noria.transfer.http_client import Client
from noria.transfer.options import TransferOptions
from noria.transfer.progress import Outcome, ProgressReporter

TRANSFER_ERRORS = (TransferError, OSError, httpx.HTTPError, httpx.InvalidURL)
"""What ends one transfer; the others continue."""

Transfer = tuple[Outcome, ProgressReporter, Callable[[Outcome, ProgressReporter], Awaitable[None]]]


def open_client(options: TransferOptions) -> Client:
    """Return an HTTP client. It requests bodies without compression, which would change offsets.

    Raises TransferError if the file of certificates or a proxy of the environment is unusable.
    """
    headers = {"user-agent": f"noria/{__version__}", "accept-encoding": "identity"}
    if options.token:
        headers["authorization"] = f"Bearer {options.token}"
    try:
        verify = ssl.create_default_context(cafile=options.ca) if options.ca else True
    except OSError as error:  # an ssl.SSLError too
        reason = error.strerror or str(error)
        raise TransferError(f"{options.ca}: cannot load certificates from it: {reason}") from None
    try:
        return Client(
            options.timeout,
            headers=headers,
            auth=options.auth,
            verify=verify,
            limits=httpx.Limits(max_connections=options.jobs + 2),
        )
    except (ValueError, ImportError, httpx.InvalidURL) as error:
        raise TransferError(f"cannot use the proxy that the environment names: {error}") from None


async def run_transfers(transfers: Iterable[Transfer], jobs: int) -> list[Outcome]:
    """Run all transfers in `jobs` tasks. One that fails does not stop the others.

    `transfers` is iterated over as tasks become free.
    """
    outcomes: list[Outcome] = []
    waiting = iter(transfers)

    async def worker() -> None:
        for outcome, reporter, transfer in waiting:  # shared by all workers
            outcomes.append(outcome)
            started = time.monotonic()
            try:
                await transfer(outcome, reporter)
            except TRANSFER_ERRORS as error:
                outcome.status, outcome.error = "failed", describe_error(error, outcome.name)
            outcome.seconds = time.monotonic() - started
            reporter.finish(outcome)

    async with asyncio.TaskGroup() as group:
        for _ in range(jobs):
            group.create_task(worker())
    return outcomes


def describe_error(error: Exception, name: str = "") -> str:
    """Return the message of one of TRANSFER_ERRORS, with the file of an OSError unless `name`."""
    if isinstance(error, TransferError):
        return str(error)
    # An ssl.SSLError is an OSError, but its number is OpenSSL's.
    if not isinstance(error, OSError) or isinstance(error, ssl.SSLError):
        return describe_http_error(error)
    reason = os_error_reason(error)
    file = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else ""
    return f"{file}: {reason}" if file and file != name else reason
