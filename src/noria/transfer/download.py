"""One file fetched: in parts if need be, verified, and put in place when it is whole."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

import httpx

from noria.transfer import destinations, file_digests, parsers, redirects, response_body
from noria.transfer.errors import BadResponse, Failure, Passing
from noria.transfer.http_client import Client
from noria.transfer.retry import check, persist
from noria.transfer.session import Bar, Options, Outcome
from noria.transfer.sinks import PartFile, Pipe, Sink

DIRECTORY = "it is a directory: -r fetches all that is in it"


class Download:
    """Fetches `url` into `sink`."""

    def __init__(
        self, http: Client, options: Options, outcome: Outcome, bar: Bar, url: str
    ) -> None:
        self.http = http
        self.options = options
        self.outcome = outcome
        self.bar = bar
        self.url = url

    async def to_file(self, target: Path, reserved: frozenset[str] = frozenset()) -> None:
        """A device or a FIFO is written into as it comes. Raises Failure, OSError.

        `reserved` are absolute paths that the part must not have.
        """
        if destinations.special(target):
            await self._into(target)
            return
        target = destinations.followed(target)
        warnings: list[str] = []  # a bar is not for worker threads
        sink = await file_digests.in_thread(PartFile, target, self.url, warnings.append, reserved)
        try:
            sink.tell = self.bar.note
            for warning in warnings:
                sink.tell(warning)
            await self._fetch(sink, target)
        finally:
            sink.close()

    async def _into(self, target: Path) -> None:
        fd = await destinations.opened(target, self.options.overwrite, self.options.timeout)
        file = os.fdopen(fd, "wb")
        try:
            await self.to_pipe(Pipe(file))
        finally:
            with contextlib.suppress(OSError):  # what could not be written was told already
                file.close()

    async def to_pipe(self, pipe: Pipe) -> None:
        """Raises Failure, OSError."""
        await self._fetch(pipe, None)

    async def _fetch(self, sink: Sink, target: Path | None) -> None:
        await persist(
            lambda: self._attempt(sink, target),
            self.options.retries,
            moved=lambda: sink.size,
            tell=self.bar.note,
        )

    async def _attempt(self, sink: Sink, target: Path | None) -> None:
        headers = {"want-repr-digest": "sha-256=10"}
        taken = target is not None and not self.options.overwrite and os.path.lexists(target)
        ranged = bool(sink.size and sink.etag and not taken)
        if ranged:
            # If-Range: the rest, if it is still the same file; else all of the new one.
            headers |= {"range": f"bytes={sink.size}-", "if-range": sink.etag}
        async with self.http.stream(
            "GET", self.url, headers=headers, follow_redirects=True
        ) as response:
            if redirects.to_directory(response):
                raise Failure(DIRECTORY)
            await self._check(response, ranged)
            if response.status_code == 200:
                total = parsers.content_length(response)
                has = self._has(target, response, total)  # raises before the part is emptied
                sink.restart("" if has else parsers.etag(response))
                if has:
                    self.outcome.status, self.outcome.size = "unchanged", total or 0
                    return
            else:
                total = self._resume(response, sink)
            self.bar.start(sink.size, total)
            if response.status_code != 416:
                await self._receive(response, sink, total)
            self._verify(response, sink)
            modified = parsers.last_modified(response)
        await asyncio.to_thread(sink.finish, self.options.overwrite, modified)

    async def _check(self, response: httpx.Response, ranged: bool) -> None:
        """Returns if the response is the file, or, if a range was requested, a 206 or 416."""
        if ranged and response.status_code == 416:
            return
        await check(response, 200, 206)
        if parsers.content_encoding(response):
            raise BadResponse(
                "the server compressed it, unasked: its size and checksum are unknown"
            )
        if response.status_code == 206 and not ranged:
            raise BadResponse("the server sent a part of the file, which was not requested")

    def _resume(self, response: httpx.Response, sink: Sink) -> int:
        """The size of the whole file by a 206 or 416 that fits to what is here."""
        if response.status_code == 416:
            if parsers.unsatisfied_range(response) == sink.size:
                return sink.size  # all of it is here already
            sink.restart("")
            raise Passing("what is here does not fit to the server's file; beginning again")
        part = parsers.content_range(response)
        if not part or part.first != sink.size:
            sink.restart("")
            raise Passing("the server sent another part than the one asked for")
        # RFC 9110 section 15.3.7: a 206 has the ETag that a 200 would have had.
        if "etag" in response.headers and parsers.etag(response) != sink.etag:
            sink.restart("")
            raise Passing("the server sent a part of another version; beginning again")
        return part.total

    async def _receive(self, response: httpx.Response, sink: Sink, total: int | None) -> None:
        async for block in response_body.blocks(response):
            if total is not None and sink.size + len(block) > total:
                sink.restart("")
                raise Passing("the server sent more bytes than the file has")
            sink.write(block)
            self.outcome.sent += len(block)
            self.bar.advance(len(block))
        if total is not None and sink.size != total:
            raise Passing(f"{sink.size} bytes came in place of {total}")

    def _has(self, target: Path | None, response: httpx.Response, total: int | None) -> bool:
        """Whether the file is here already. Raises Failure if another is in its place."""
        if target is None or self.options.overwrite or not os.path.lexists(target):
            return False
        found = target.lstat()
        modified = parsers.last_modified(response)
        if found.st_size == total and modified is not None and found.st_mtime == modified:
            return True
        raise Failure(f"{target} exists; --overwrite replaces it")

    def _verify(self, response: httpx.Response, sink: Sink) -> None:
        self.outcome.size, self.outcome.sha256 = sink.size, sink.sha256()
        theirs = parsers.sha256(response)
        if theirs and theirs != self.outcome.sha256:
            sink.restart("")  # raises for a pipe: it is too late there
            raise Passing("the SHA-256 of what came is not the one that the server gives")
        self.outcome.verified = bool(theirs)
