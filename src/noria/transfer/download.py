"""The download of one file: resumed if possible, verified, and renamed when it is complete."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

import httpx

from noria.transfer import parsers, redirects, response_body, special_files
from noria.transfer.destination import Destination, PipeDestination
from noria.transfer.errors import BadResponse, RetryableError, TargetExists, TransferError
from noria.transfer.http_client import Client
from noria.transfer.options import TransferOptions
from noria.transfer.part_file import PartFile
from noria.transfer.progress import Outcome, ProgressReporter
from noria.transfer.retry import with_retries
from noria.transfer.status_errors import EXISTS_MESSAGE, raise_for_status
from noria.transfer.worker_thread import run_stoppable

DIRECTORY_MESSAGE = "it is a directory: -r fetches everything in it"


class Download:
    """Downloads `url` with one of its methods, and sets the fields of `outcome`."""

    def __init__(
        self,
        http: Client,
        options: TransferOptions,
        outcome: Outcome,
        reporter: ProgressReporter,
        url: str,
    ) -> None:
        self.http = http
        self.options = options
        self.outcome = outcome
        self.reporter = reporter
        self.url = url

    async def to_file(self, target: Path, reserved: frozenset[str] = frozenset()) -> None:
        """Download to a path; a device or a FIFO is written into. Raises TransferError, OSError.

        `reserved` are absolute paths that the part file must not have.
        """
        if special_files.is_special(target):
            await self._to_special_file(target)
            return
        target = special_files.resolve_link(target)
        warnings: list[str] = []  # a reporter must not be called in a worker thread
        part = await run_stoppable(PartFile, target, self.url, warnings.append, reserved)
        try:
            part.warn = self.reporter.message
            for warning in warnings:
                part.warn(warning)
            await self._download(part, target)
        finally:
            part.close()

    async def _to_special_file(self, target: Path) -> None:
        fd = await special_files.open_special(target, self.options.overwrite, self.options.timeout)
        file = os.fdopen(fd, "wb")
        try:
            await self.to_pipe(PipeDestination(file))
        finally:
            with contextlib.suppress(OSError):  # an error of writing was raised before
                file.close()

    async def to_pipe(self, pipe: PipeDestination) -> None:
        """Download to an open file that cannot seek. Raises TransferError, OSError."""
        await self._download(pipe, None)

    async def _download(self, destination: Destination, target: Path | None) -> None:
        await with_retries(
            lambda: self._attempt(destination, target),
            self.options.retries,
            progress=lambda: destination.size,
            report=self.reporter.message,
        )

    async def _attempt(self, destination: Destination, target: Path | None) -> None:
        headers = {"want-repr-digest": "sha-256=10"}
        exists = target is not None and not self.options.overwrite and os.path.lexists(target)
        resuming = bool(destination.size and destination.etag and not exists)
        if resuming:
            # If-Range: the rest if the file has not changed, otherwise all of the new file.
            headers |= {"range": f"bytes={destination.size}-", "if-range": destination.etag}
        async with self.http.stream(
            "GET", self.url, headers=headers, follow_redirects=True
        ) as response:
            if redirects.leads_to_directory(response):
                raise TransferError(DIRECTORY_MESSAGE)
            await self._check_response(response, resuming)
            if response.status_code == 200:
                total = parsers.content_length(response)
                # Before restart, as it may raise, and the part must not be emptied then.
                unchanged = self._is_unchanged(target, response, total)
                destination.restart("" if unchanged else parsers.etag(response))
                if unchanged:
                    self.outcome.status, self.outcome.size = "unchanged", total or 0
                    return
            else:
                total = self._check_range(response, destination)
            self.reporter.start(destination.size, total)
            if response.status_code != 416:
                await self._receive(response, destination, total)
            self._verify(response, destination)
            modified = parsers.last_modified(response)
        await asyncio.to_thread(destination.finish, self.options.overwrite, modified)

    async def _check_response(self, response: httpx.Response, resuming: bool) -> None:
        """Raise unless the response is the file or, for a range request, a 206 or a 416."""
        if resuming and response.status_code == 416:
            return
        await raise_for_status(response, 200, 206)
        if parsers.content_encoding(response):
            raise BadResponse(
                "the server compressed the file unasked, so its size and checksum are unknown"
            )
        if response.status_code == 206 and not resuming:
            raise BadResponse("the server sent a part of the file, but all of it was requested")

    def _check_range(self, response: httpx.Response, destination: Destination) -> int:
        """Return the size of the whole file from a 206 or a 416 that fits the bytes so far."""
        if response.status_code == 416:
            if parsers.unsatisfied_range(response) == destination.size:
                return destination.size  # the file was complete already
            destination.restart("")
            raise RetryableError("the part file does not fit the server's file; restarting")
        part = parsers.content_range(response)
        if not part or part.first != destination.size:
            destination.restart("")
            raise RetryableError("the server sent another range than the requested one; restarting")
        # RFC 9110 section 15.3.7: a 206 has the ETag that a 200 would have had.
        if "etag" in response.headers and parsers.etag(response) != destination.etag:
            destination.restart("")
            raise RetryableError("the server sent a part of another version; restarting")
        return part.total

    async def _receive(
        self, response: httpx.Response, destination: Destination, total: int | None
    ) -> None:
        async for block in response_body.iterate_body(response):
            if total is not None and destination.size + len(block) > total:
                destination.restart("")
                raise RetryableError("the server sent more bytes than the file has")
            destination.write(block)
            self.outcome.sent += len(block)
            self.reporter.advance(len(block))
        if total is not None and destination.size != total:
            raise RetryableError(f"received {destination.size} bytes instead of {total}")

    def _is_unchanged(
        self, target: Path | None, response: httpx.Response, total: int | None
    ) -> bool:
        """Whether the target is this file already. Raises TargetExists if it is another."""
        if target is None or self.options.overwrite or not os.path.lexists(target):
            return False
        status = target.lstat()
        modified = parsers.last_modified(response)
        if status.st_size == total and modified is not None and status.st_mtime == modified:
            return True
        raise TargetExists(EXISTS_MESSAGE.format(target))

    def _verify(self, response: httpx.Response, destination: Destination) -> None:
        self.outcome.size, self.outcome.sha256 = destination.size, destination.sha256()
        theirs = parsers.response_sha256(response)
        if theirs and theirs != self.outcome.sha256:
            destination.restart("")  # raises for a pipe, which cannot restart
            raise RetryableError("the SHA-256 differs from the server's; restarting")
        self.outcome.verified = bool(theirs)
