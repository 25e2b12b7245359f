"""One file fetched: in parts if need be, verified, and put in place when it is whole."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx

from noria.fileserver.client import digests, places, redirects
from noria.fileserver.client.session import Bar, Options, Outcome
from noria.fileserver.client.sinks import PartFile, Pipe, Sink
from noria.fileserver.client.trouble import Failure, Passing, check, persist

DIRECTORY = "it is a directory: -r fetches all that is in it"

_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


class Download:
    """Fetches `url` into `sink`."""

    def __init__(
        self, http: httpx.AsyncClient, options: Options, outcome: Outcome, bar: Bar, url: str
    ) -> None:
        self.http = http
        self.options = options
        self.outcome = outcome
        self.bar = bar
        self.url = url

    async def to_file(self, target: Path) -> None:
        """A device or a FIFO is written into as it comes. Raises Failure, OSError."""
        if places.special(target):
            await self._into(target)
            return
        target = places.followed(target)
        sink = await asyncio.to_thread(PartFile, target, self.url, self.bar.note)
        try:
            await self._fetch(sink, target)
        finally:
            sink.close()

    async def _into(self, target: Path) -> None:
        fd = await places.opened(target, self.options.overwrite, self.options.timeout)
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
        if sink.size and sink.etag and not taken:
            # If-Range: the rest, if it is still the same file; else all of the new one.
            headers |= {"range": f"bytes={sink.size}-", "if-range": sink.etag}
        async with self.http.stream(
            "GET", self.url, headers=headers, follow_redirects=True
        ) as response:
            if redirects.to_directory(response):
                raise Failure(DIRECTORY)
            total = await self._begin(response, sink)
            if response.status_code == 200 and self._has(target, response, total):
                self.outcome.status, self.outcome.size = "unchanged", total or 0
                return
            self.bar.start(sink.size, total)
            if response.status_code != 416:
                async for block in response.aiter_raw():
                    sink.write(block)
                    self.outcome.sent += len(block)
                    self.bar.advance(len(block))
            if total is not None and sink.size != total:
                raise Passing(f"{sink.size} bytes came in place of {total}")
            self._verify(response, sink)
            modified = _seconds(response.headers.get("last-modified", ""))
        await asyncio.to_thread(sink.finish, self.options.overwrite, modified)

    async def _begin(self, response: httpx.Response, sink: Sink) -> int | None:
        """Reads the head: how many bytes the whole file has, if the server says."""
        if response.status_code == 416 and sink.size:
            if response.headers.get("content-range") == f"bytes */{sink.size}":
                return sink.size  # all of it is here already
            sink.restart("")
            raise Passing("what is here does not fit to the server's file; beginning again")
        await check(response, 200, 206)
        if response.headers.get("content-encoding", "identity") != "identity":
            raise Failure("the server compressed it, unasked: its size and checksum are unknown")
        if response.status_code == 206:
            found = _RANGE.fullmatch(response.headers.get("content-range", ""))
            if not found or int(found[1]) != sink.size:
                sink.restart("")
                raise Passing("the server sent another part than the one asked for")
            return int(found[2])
        etag = response.headers.get("etag", "")
        sink.restart(etag if etag.startswith('"') else "")  # a weak one says nothing of bytes
        length = response.headers.get("content-length", "")
        return int(length) if length.isdigit() else None

    def _has(self, target: Path | None, response: httpx.Response, total: int | None) -> bool:
        """Whether the file is here already. Raises Failure if another is in its place."""
        if target is None or self.options.overwrite or not os.path.lexists(target):
            return False
        found = target.lstat()
        modified = _seconds(response.headers.get("last-modified", ""))
        if found.st_size == total and modified is not None and found.st_mtime == modified:
            return True
        raise Failure(f"{target} exists; --overwrite replaces it")

    def _verify(self, response: httpx.Response, sink: Sink) -> None:
        self.outcome.size, self.outcome.sha256 = sink.size, sink.sha256()
        theirs = digests.told(response)
        if theirs and theirs != self.outcome.sha256:
            sink.restart("")  # raises for a pipe: it is too late there
            raise Passing("the SHA-256 of what came is not the one that the server gives")
        self.outcome.verified = bool(theirs)


def _seconds(date: str) -> float | None:
    """An HTTP date as seconds since the epoch."""
    try:
        return parsedate_to_datetime(date).timestamp()
    except ValueError:
        return None
