"""Sending files and directories."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import httpx

from noria.transfer import file_digests, parsers, pipes, redirects, tus
from noria.transfer.errors import Exists, Failure
from noria.transfer.http_client import Client
from noria.transfer.parsers import shown
from noria.transfer.retry import (
    DIRECTORY,
    EXISTS,
    check,
    later,
    persist,
    refused,
)
from noria.transfer.session import (
    BLOCK,
    ERRORS,
    Bar,
    Options,
    Outcome,
    all_of,
    connect,
    explained,
)
from noria.transfer.sources import Item, items

SMALL = 1 << 20  # bytes up to which one PUT is quicker than the requests of an upload in parts


async def put(
    sources: list[Path],
    url: str,
    options: Options,
    *,
    bars: Callable[[str], Bar] = lambda _: Bar(),
) -> list[Outcome]:
    """Sends files, and directories with all beneath them. What failed is among the outcomes.

    The directory that `url` names is made if it is missing, with those above it. Where a directory
    cannot be made, nothing beneath it is sent, and it alone is among the outcomes. Raises Failure
    if the sources cannot go to this URL.
    """
    parsers.require_url(url)
    found = list(items(sources, url))
    async with connect(options) as http:
        sender = Sender(http, options)
        work: list[Any] = []
        failed: list[Outcome] = []
        closed: list[str] = []  # directories that could not be made
        if any(not item.problem for item in found) and url.endswith("/"):
            try:
                await sender.target(url, bars(shown(url)))
            except ERRORS as error:
                return [Outcome(shown(url), shown(url), "failed", error=explained(error))]
        for item in found:
            outcome = Outcome(str(item.path), shown(item.url))
            if any(item.url.startswith(each) for each in closed):
                continue
            if not item.problem and not item.url.endswith("/"):
                work.append((outcome, bars(item.path.name or str(item.path)), sender.work(item)))
                continue
            try:
                if item.problem:
                    raise Failure(item.problem)
                await sender.directory(item.url, bars(item.path.name or str(item.path)))
            except ERRORS as error:
                outcome.status, outcome.error = "failed", explained(error, outcome.name)
                failed.append(outcome)
                if item.url.endswith("/") and not item.problem:
                    closed.append(item.url)
        return failed + await all_of(work, options.jobs)


async def put_from_pipe(
    file: BinaryIO, url: str, options: Options, bars: Callable[[str], Bar] = lambda _: Bar()
) -> list[Outcome]:
    """Sends what an open binary file gives until its end, in one go: it cannot be read again."""
    async with connect(options) as http:
        sender = Sender(http, options)

        async def do(outcome: Outcome, bar: Bar) -> None:
            parsers.require_url(url)
            bar.start(0, None)
            try:
                await persist(lambda: sender.pipe(file, url, outcome, bar), retries=0)
            except Exists:
                await sender.no_directory(url)
                raise

        return await all_of([(Outcome("-", shown(url)), bars("-"), do)], 1)


class Sender:
    """Sends things over one HTTP client."""

    def __init__(self, http: Client, options: Options) -> None:
        self.http = http
        self.options = options
        self.server = tus.Server(http)

    async def target(self, url: str, bar: Bar) -> None:
        """Makes the directory that all is to go into if the server says that it is missing.

        Servers that know no directories are not asked to make one unless they say so.
        """
        if not urlsplit(url).path.strip("/"):
            return

        async def attempt() -> bool:
            response = await self.http.head(url)
            await later(response)
            return response.status_code in (404, 410)

        if await persist(attempt, self.options.retries, tell=bar.note):
            await self.directory(url, bar)

    async def directory(self, url: str, bar: Bar) -> None:
        """Makes a directory (MKCOL, RFC 4918 section 9.3) and those above it, if missing."""
        missing = [url]  # each is above the one before it
        climbed: set[str] = set()
        while missing:
            here = missing[-1]
            above = "" if here in climbed else parent(here)
            attempt = partial(self._made, here, bool(above))
            if await persist(attempt, self.options.retries, tell=bar.note):
                missing.pop()
            else:
                climbed.add(here)
                missing.append(above)

    async def _made(self, url: str, above: bool) -> bool:
        """Whether the directory is there now; with `above` False if the one above it is missing."""
        response = await self.http.request("MKCOL", url)
        if response.status_code in (405, 409, 412):
            there = await self.http.head(url)
            if there.status_code == 200:
                return True
            if response.status_code == 409 and above:
                return False
        await check(response, 200, 201, 204)
        return True

    def work(self, item: Item) -> Callable[[Outcome, Bar], Any]:
        async def do(outcome: Outcome, bar: Bar) -> None:
            await self.file(item.path, item.url, outcome, bar)

        return do

    async def file(self, path: Path, url: str, outcome: Outcome, bar: Bar) -> None:
        """Sends a file whole if it is small, else in parts. Raises Failure, OSError."""
        size = os.stat(path).st_size
        upload: tus.Upload | None = None

        async def attempt() -> None:
            nonlocal upload
            if size > SMALL and upload is None:
                extensions = await self.server.extensions(url)
                if extensions is not None:
                    upload = tus.Upload(
                        self.server, outcome, bar, path, url, "checksum" in extensions
                    )
            conditions = await self._conditions(url, look=upload is not None)
            if upload is None or not await upload.attempt(conditions):
                await self._whole(path, url, outcome, bar, conditions)

        try:
            await persist(
                attempt,
                self.options.retries,
                moved=lambda: upload.offset if upload else 0,
                tell=bar.note,
            )
        except Exists:
            outcome.size = size
            if not await self._same(path, url, outcome):
                raise

    async def pipe(self, file: BinaryIO, url: str, outcome: Outcome, bar: Bar) -> None:
        """Sends an open file of unknown length, chunked. Raises as an attempt of `persist` does."""
        sum = hashlib.sha256()

        async def body() -> AsyncIterator[bytes]:
            async for block in pipes.blocks(file):
                sum.update(block)
                yield block
                outcome.size += len(block)
                bar.advance(len(block))

        conditions = await self._conditions(url)
        response = await self.http.put(url, content=body(), headers=conditions)
        await refused(response)
        outcome.sent, outcome.sha256 = outcome.size, sum.hexdigest()
        if theirs := parsers.sha256(response):
            if theirs != outcome.sha256:
                raise Failure("the server's SHA-256 of what came is another: send it again")
            outcome.verified = True

    async def _conditions(self, url: str, look: bool = False) -> dict[str, str]:
        """What must hold for the file to be written: none is there, or the one just seen.

        With `look`, the first is seen to here: tus does not say that servers heed conditions.
        Raises Exists.
        """
        if self.options.overwrite or look:
            response = await self.http.head(url)
            require_no_directory(response)
            if response.status_code == 200:
                if not self.options.overwrite:
                    raise Exists(EXISTS.format(response.url.path))
                etag = parsers.etag(response)
                return {"if-match": etag} if etag else {}
        return {"if-none-match": "*"}

    async def no_directory(self, url: str) -> None:
        """Raises Failure if a directory is there: no option lets a file replace one."""
        with contextlib.suppress(httpx.TransportError):
            require_no_directory(await self.http.head(url))

    async def _whole(
        self, path: Path, url: str, outcome: Outcome, bar: Bar, conditions: dict[str, str]
    ) -> None:
        sum = await file_digests.in_thread(file_digests.of_file, path)
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            bar.start(0, size)

            async def body() -> AsyncIterator[bytes]:
                left = size
                while left and (block := await asyncio.to_thread(file.read, min(left, BLOCK))):
                    yield block
                    left -= len(block)
                    bar.advance(len(block))
                if left:
                    raise Failure(f"{path} changed while it was sent; put it again")

            headers = {
                **conditions,
                "content-length": str(size),
                "content-type": "application/octet-stream",
                "repr-digest": file_digests.header(sum.digest()),
                "x-checksum-sha256": sum.hexdigest(),
            }
            response = await self.http.put(url, content=body(), headers=headers)
        await refused(response)
        outcome.size = outcome.sent = size
        outcome.sha256, outcome.verified = sum.hexdigest(), True

    async def _same(self, path: Path, url: str, outcome: Outcome) -> bool:
        """Whether the file that is there is this one, by the server's own SHA-256.

        Raises Failure if it is a directory.
        """
        try:
            response = await self.http.head(url, headers={"want-repr-digest": "sha-256=10"})
        except httpx.TransportError:
            return False
        require_no_directory(response)
        theirs = parsers.sha256(response) if response.status_code == 200 else ""
        if not theirs:
            return False
        ours = (await file_digests.in_thread(file_digests.of_file, path)).hexdigest()
        if ours == theirs:
            outcome.status, outcome.sha256, outcome.verified = "unchanged", ours, True
        return ours == theirs


def parent(url: str) -> str:
    """The directory that a directory is in, or "" for the server's root."""
    parts = urlsplit(url)
    above = parts.path.rstrip("/").rpartition("/")[0]
    return parts._replace(path=f"{above}/", query="").geturl() if above else ""


def require_no_directory(response: httpx.Response) -> None:
    """Raises Failure if the server sends on to the same path with "/" after it."""
    if redirects.to_directory(response):
        raise Failure(DIRECTORY.format(response.url.path))
