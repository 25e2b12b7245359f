"""`put`: uploads files, and directories with everything below them."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import httpx

from noria.http.digests import format_repr_digest
from noria.transfer import parsers, redirects, tus
from noria.transfer.errors import TargetExists, TransferError
from noria.transfer.http_client import Client
from noria.transfer.options import TransferOptions
from noria.transfer.parsers import redact_url
from noria.transfer.pipes import BLOCK_BYTES, read_blocks
from noria.transfer.progress import Outcome, ProgressReporter
from noria.transfer.retry import with_retries
from noria.transfer.session import (
    TRANSFER_ERRORS,
    Transfer,
    describe_error,
    open_client,
    run_transfers,
)
from noria.transfer.sources import Source, find_sources
from noria.transfer.status_errors import (
    EXISTS_MESSAGE,
    raise_for_status,
    raise_for_upload_status,
    raise_if_retryable,
)
from noria.transfer.worker_thread import hash_path

DIRECTORY_MESSAGE = '{} is a directory: end the URL in "/" to put files into it'
MAX_SINGLE_PUT_BYTES = 1 << 20  # up to which one PUT is faster than the requests of tus


async def put(
    paths: list[Path],
    url: str,
    options: TransferOptions,
    *,
    new_reporter: Callable[[str], ProgressReporter] = lambda _: ProgressReporter(),
) -> list[Outcome]:
    """Upload files, and directories with everything below them. Errors are in the outcomes.

    If `url` names a directory, it is created if it is missing, with its parents. If a directory
    cannot be created, nothing below it is sent, and the outcomes have an error for it alone.
    `new_reporter` is called with the name of each file. Raises TransferError if the paths cannot
    go to this URL.
    """
    parsers.require_url(url)
    sources = list(find_sources(paths, url))
    async with open_client(options) as http:
        uploader = Uploader(http, options)
        transfers: list[Transfer] = []
        failed: list[Outcome] = []
        failed_directories: list[str] = []  # the URLs of those that could not be created
        if any(not source.error for source in sources) and url.endswith("/"):
            try:
                await uploader.ensure_directory(url, new_reporter(redact_url(url)))
            except TRANSFER_ERRORS as error:
                name = redact_url(url)
                return [Outcome(name, name, "failed", error=describe_error(error))]
        for source in sources:
            outcome = Outcome(str(source.path), redact_url(source.url))
            if any(source.url.startswith(each) for each in failed_directories):
                continue
            name = source.path.name or str(source.path)
            if not source.error and not source.url.endswith("/"):
                transfers.append((outcome, new_reporter(name), uploader.transfer(source)))
                continue
            try:
                if source.error:
                    raise TransferError(source.error)
                await uploader.make_directory(source.url, new_reporter(name))
            except TRANSFER_ERRORS as error:
                outcome.status, outcome.error = "failed", describe_error(error, outcome.name)
                failed.append(outcome)
                if source.url.endswith("/") and not source.error:
                    failed_directories.append(source.url)
        return failed + await run_transfers(transfers, options.jobs)


async def put_from_pipe(
    file: BinaryIO,
    url: str,
    options: TransferOptions,
    new_reporter: Callable[[str], ProgressReporter] = lambda _: ProgressReporter(),
) -> list[Outcome]:
    """Upload an open binary file until its end, without retries: it cannot be read twice."""
    async with open_client(options) as http:
        uploader = Uploader(http, options)

        async def transfer(outcome: Outcome, reporter: ProgressReporter) -> None:
            parsers.require_url(url)
            reporter.start(0, None)
            try:
                await with_retries(
                    lambda: uploader.upload_pipe(file, url, outcome, reporter), retries=0
                )
            except TargetExists:
                await uploader.require_no_directory(url)
                raise

        return await run_transfers(
            [(Outcome("-", redact_url(url)), new_reporter("-"), transfer)], 1
        )


class Uploader:
    """Uploads files and creates directories with one HTTP client."""

    def __init__(self, http: Client, options: TransferOptions) -> None:
        self.http = http
        self.options = options
        self.extensions = tus.ServerExtensions(http)

    async def ensure_directory(self, url: str, reporter: ProgressReporter) -> None:
        """Create a directory if the server answers that it is missing (404 or 410).

        Otherwise no MKCOL is sent, as the server may have no directories.
        """
        if not urlsplit(url).path.strip("/"):
            return

        async def attempt() -> bool:
            response = await self.http.head(url)
            await raise_if_retryable(response)
            return response.status_code in (404, 410)

        if await with_retries(attempt, self.options.retries, report=reporter.message):
            await self.make_directory(url, reporter)

    async def make_directory(self, url: str, reporter: ProgressReporter) -> None:
        """Create a directory (MKCOL, RFC 4918 section 9.3) and its parents, if missing."""
        missing = [url]  # each one is the parent of the one before it
        parent_tried: set[str] = set()
        while missing:
            current = missing[-1]
            parent = "" if current in parent_tried else parent_url(current)
            attempt = partial(self._try_make_directory, current, bool(parent))
            if await with_retries(attempt, self.options.retries, report=reporter.message):
                missing.pop()
            else:
                parent_tried.add(current)
                missing.append(parent)

    async def _try_make_directory(self, url: str, has_parent: bool) -> bool:
        """Return True if the directory exists now, False if its parent is missing.

        Raises RetryableError, TransferError.
        """
        response = await self.http.request("MKCOL", url)
        if response.status_code in (405, 409, 412):
            existing = await self.http.head(url)
            if existing.status_code == 200:
                return True
            if response.status_code == 409 and has_parent:
                return False
        await raise_for_status(response, 200, 201, 204)
        return True

    def transfer(self, source: Source) -> Callable[[Outcome, ProgressReporter], Awaitable[None]]:
        """Return the transfer of a file, for `run_transfers`."""

        async def transfer(outcome: Outcome, reporter: ProgressReporter) -> None:
            await self.upload_file(source.path, source.url, outcome, reporter)

        return transfer

    async def upload_file(
        self, path: Path, url: str, outcome: Outcome, reporter: ProgressReporter
    ) -> None:
        """Upload a small file with one PUT, others with tus. Raises TransferError, OSError."""
        size = os.stat(path).st_size
        upload: tus.Upload | None = None

        async def attempt() -> None:
            nonlocal upload
            if size > MAX_SINGLE_PUT_BYTES and upload is None:
                extensions = await self.extensions.get(url)
                if extensions is not None:
                    upload = tus.Upload(
                        self.http, outcome, reporter, path, url, "checksum" in extensions
                    )
            conditions = await self._conditions(url, check=upload is not None)
            if upload is None or not await upload.attempt(conditions):
                await self._put_file(path, url, outcome, reporter, conditions)

        try:
            await with_retries(
                attempt,
                self.options.retries,
                progress=lambda: upload.offset if upload else 0,
                report=reporter.message,
            )
        except TargetExists:
            outcome.size = size
            if not await self._is_unchanged(path, url, outcome):
                raise

    async def upload_pipe(
        self, file: BinaryIO, url: str, outcome: Outcome, reporter: ProgressReporter
    ) -> None:
        """Upload an open file of unknown length, chunked. Raises TransferError, RetryableError."""
        sha256 = hashlib.sha256()

        async def body() -> AsyncIterator[bytes]:
            async for block in read_blocks(file):
                sha256.update(block)
                yield block
                outcome.size += len(block)
                reporter.advance(len(block))

        conditions = await self._conditions(url)
        response = await self.http.put(url, content=body(), headers=conditions)
        await raise_for_upload_status(response)
        outcome.sent, outcome.sha256 = outcome.size, sha256.hexdigest()
        if stored := parsers.response_sha256(response):
            if stored != outcome.sha256:
                raise TransferError("the server stored data with another SHA-256: send it again")
            outcome.verified = True

    async def _conditions(self, url: str, check: bool = False) -> dict[str, str]:
        """Return the preconditions of an upload: no file exists, or the one just found.

        With `check`, raises TargetExists if a file exists: tus does not require servers to evaluate
        preconditions.
        """
        if self.options.overwrite or check:
            response = await self.http.head(url)
            raise_for_directory(response)
            if response.status_code == 200:
                if not self.options.overwrite:
                    raise TargetExists(EXISTS_MESSAGE.format(response.url.path))
                etag = parsers.etag(response)
                return {"if-match": etag} if etag else {}
        return {"if-none-match": "*"}

    async def require_no_directory(self, url: str) -> None:
        """Raise TransferError if the URL is a directory, which a file cannot replace."""
        with contextlib.suppress(httpx.TransportError):
            raise_for_directory(await self.http.head(url))

    async def _put_file(
        self,
        path: Path,
        url: str,
        outcome: Outcome,
        reporter: ProgressReporter,
        conditions: dict[str, str],
    ) -> None:
        """Upload a file with one PUT."""
        sha256 = await hash_path(path)
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            reporter.start(0, size)

            async def body() -> AsyncIterator[bytes]:
                left = size
                while left and (
                    block := await asyncio.to_thread(file.read, min(left, BLOCK_BYTES))
                ):
                    yield block
                    left -= len(block)
                    reporter.advance(len(block))
                if left:
                    raise TransferError(f"{path} changed during the upload; run the command again")

            headers = {
                **conditions,
                "content-length": str(size),
                "content-type": "application/octet-stream",
                "repr-digest": format_repr_digest(sha256.digest()),
                "x-checksum-sha256": sha256.hexdigest(),
            }
            response = await self.http.put(url, content=body(), headers=headers)
        await raise_for_upload_status(response)
        outcome.size = outcome.sent = size
        outcome.sha256, outcome.verified = sha256.hexdigest(), True

    async def _is_unchanged(self, path: Path, url: str, outcome: Outcome) -> bool:
        """Whether the server's file has the same SHA-256. Raises TransferError for a directory."""
        try:
            response = await self.http.head(url, headers={"want-repr-digest": "sha-256=10"})
        except httpx.TransportError:
            return False
        raise_for_directory(response)
        stored = parsers.response_sha256(response) if response.status_code == 200 else ""
        if not stored or stored != (await hash_path(path)).hexdigest():
            return False
        outcome.status, outcome.sha256, outcome.verified = "unchanged", stored, True
        return True


def parent_url(url: str) -> str:
    """Return the parent of a directory, "" if that is the server's root."""
    parts = urlsplit(url)
    above = parts.path.rstrip("/").rpartition("/")[0]
    return parts._replace(path=f"{above}/", query="").geturl() if above else ""


def raise_for_directory(response: httpx.Response) -> None:
    """Raise TransferError if the server redirects to the same path with a final "/"."""
    if redirects.leads_to_directory(response):
        raise TransferError(DIRECTORY_MESSAGE.format(response.url.path))
