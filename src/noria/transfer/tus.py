"""Uploads that can be gone on with: the client's side of tus 1.0 (tus.io/protocols)."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes, urljoin, urlsplit

from noria.transfer import file_digests, parsers
from noria.transfer.errors import Exists, Failure, Passing
from noria.transfer.http_client import Client
from noria.transfer.parsers import same_origin
from noria.transfer.resume_state import Note
from noria.transfer.retry import EXISTS, check, refused
from noria.transfer.session import BLOCK, Bar, Outcome

VERSION = {"tus-resumable": "1.0.0"}
UPLOADS = "/-/uploads/"
CHUNK = 8 << 20  # bytes that one PATCH carries; what a lost connection can cost


class Server:
    """What the servers say that they can do, each asked once."""

    def __init__(self, http: Client) -> None:
        self.http = http
        self._extensions: dict[str, frozenset[str] | None] = {}
        self._lock = asyncio.Lock()

    async def extensions(self, url: str) -> frozenset[str] | None:
        """tus' extensions there, or None where tus is not spoken."""
        origin = urljoin(url, UPLOADS)
        async with self._lock:
            if origin not in self._extensions:
                response = await self.http.options(origin)
                if response.status_code >= 500:
                    return None
                self._extensions[origin] = parsers.tus_extensions(response)
        return self._extensions[origin]


class Upload:
    """Sends the file at `path` to `url`. `headers` are conditions on what is there."""

    def __init__(
        self, server: Server, outcome: Outcome, bar: Bar, path: Path, url: str, checksums: bool
    ) -> None:
        self.http = server.http
        self.outcome = outcome
        self.bar = bar
        self.path = path
        self.url = url
        self.checksums = checksums
        self.state = os.stat(path)
        self.offset = 0  # bytes that the server has
        self._note = Note(
            "put", parsers.shown(url), os.path.join(os.path.realpath(path.parent), path.name)
        )

    async def attempt(self, conditions: Mapping[str, str]) -> bool:
        """Goes on where the last attempt, or the last run, came to. Raises Failure, Passing.

        Returns False if the server does not replace the file by tus: a PUT that names the file's
        ETag may.
        """
        location, self.offset = await self._find()
        if not location:
            found = await self._create(conditions)
            if found is None:
                return False
            location = found
        size = self.state.st_size
        self.bar.start(self.offset, size)
        sum = await file_digests.in_thread(file_digests.of_file, self.path, self.offset)
        with open(self.path, "rb", buffering=0) as file:
            file.seek(self.offset)
            while self.offset < size:
                chunk = await asyncio.to_thread(file.read, min(CHUNK, size - self.offset))
                if not chunk or self._changed(file.fileno()):
                    raise Failure(f"{self.path} changed while it was sent; put it again")
                await self._patch(location, self.offset, chunk)
                sum.update(chunk)
                self.offset += len(chunk)
                self.outcome.sent += len(chunk)
        self._note.forget()
        self.outcome.size, self.outcome.sha256 = size, sum.hexdigest()
        self.outcome.verified = self.checksums
        return True

    async def _find(self) -> tuple[str, int]:
        """The upload that an earlier run began, and its offset; ("", 0) if there is none."""
        note = self._note.read()
        location = str(note.get("upload", ""))
        if not location or not same_origin(location, self.url):
            return "", 0
        response = await self.http.head(location, headers=VERSION)
        if response.status_code in (403, 404, 410):
            self._note.forget()
            return "", 0
        await check(response, 200, 204)
        fits = note.get("size") == self.state.st_size and note.get("mtime") == self._mtime()
        if not fits:  # another content by now: what is there is of no use
            self._note.forget()
            await self.http.delete(location, headers=VERSION)
            return "", 0
        return location, parsers.upload_offset(response, self.state.st_size)

    async def _create(self, conditions: Mapping[str, str]) -> str | None:
        directory, _, name = unquote_to_bytes(urlsplit(self.url).path).rpartition(b"/")
        metadata = ",".join(
            f"{key} {base64.b64encode(value).decode()}"
            for key, value in (("filename", name), ("directory", directory + b"/"))
        )
        response = await self.http.post(
            urljoin(self.url, UPLOADS),
            headers={
                **VERSION,
                **conditions,
                "upload-length": str(self.state.st_size),
                "upload-metadata": metadata,
            },
        )
        if response.status_code == 409 and "if-match" in conditions:
            return None
        await refused(response)
        location = str(parsers.location(response))
        if not same_origin(location, self.url):
            raise Failure("the server sends the upload to another host, which has not your trust")
        warning = self._note.write(upload=location, size=self.state.st_size, mtime=self._mtime())
        if warning:
            self.bar.note(warning)
        return location

    async def _patch(self, location: str, offset: int, chunk: bytes) -> None:
        headers = {
            **VERSION,
            "upload-offset": str(offset),
            "content-type": "application/offset+octet-stream",
            "content-length": str(len(chunk)),
        }
        if self.checksums:
            sum = base64.b64encode(hashlib.sha256(chunk).digest()).decode()
            headers["upload-checksum"] = f"sha256 {sum}"
        response = await self.http.patch(location, headers=headers, content=blocks(chunk, self.bar))
        if response.status_code == 409 and "upload-offset" in response.headers:
            raise Passing("the server stands at another offset")
        if response.status_code in (404, 410):
            self._note.forget()
            raise Passing("the server has given the upload up")
        if response.status_code == 412:  # a file came to be there meanwhile
            self._note.forget()
            raise Exists(EXISTS.format(unquote(urlsplit(self.url).path)))
        await check(response, 200, 204)
        if parsers.upload_offset(response, self.state.st_size) != offset + len(chunk):
            raise Passing("the server took a part of what was sent")

    def _mtime(self) -> int:
        return self.state.st_mtime_ns

    def _changed(self, fd: int) -> bool:
        now = os.fstat(fd)
        return (now.st_size, now.st_mtime_ns) != (self.state.st_size, self._mtime())


async def blocks(chunk: bytes, bar: Bar) -> AsyncIterator[bytes]:
    """In pieces, so that the bar moves as they go."""
    view = memoryview(chunk)
    for start in range(0, len(chunk), BLOCK):
        piece = bytes(view[start : start + BLOCK])
        yield piece
        bar.advance(len(piece))
