"""Uploads that can be resumed: the client of tus 1.0 (tus.io/protocols)."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes, urljoin, urlsplit

from noria.transfer import parsers
from noria.transfer.errors import RetryableError, TargetExists, TransferError
from noria.transfer.http_client import Client
from noria.transfer.parsers import redact_url, same_origin
from noria.transfer.pipes import BLOCK_BYTES
from noria.transfer.progress import Outcome, ProgressReporter
from noria.transfer.resume_state import ResumeRecord
from noria.transfer.status_errors import EXISTS_MESSAGE, raise_for_status, raise_for_upload_status
from noria.transfer.worker_thread import hash_path

TUS_HEADERS = {"tus-resumable": "1.0.0"}
UPLOADS_PATH = "/-/uploads/"
CHUNK_BYTES = 8 << 20  # in one PATCH; at most this is lost with a connection


class ServerExtensions:
    """The tus extensions of servers, each requested once."""

    def __init__(self, http: Client) -> None:
        self.http = http
        self._extensions: dict[str, frozenset[str] | None] = {}
        self._lock = asyncio.Lock()

    async def get(self, url: str) -> frozenset[str] | None:
        """Return the extensions of the server at `url`, None if it does not support tus."""
        origin = urljoin(url, UPLOADS_PATH)
        async with self._lock:
            if origin not in self._extensions:
                response = await self.http.options(origin)
                if response.status_code >= 500:
                    return None
                self._extensions[origin] = parsers.tus_extensions(response)
        return self._extensions[origin]


class Upload:
    """The upload of the file at `path` to `url`; with `checksums`, each part is verified."""

    def __init__(
        self,
        http: Client,
        outcome: Outcome,
        reporter: ProgressReporter,
        path: Path,
        url: str,
        checksums: bool,
    ) -> None:
        self.http = http
        self.outcome = outcome
        self.reporter = reporter
        self.path = path
        self.url = url
        self.checksums = checksums
        self.file_status = os.stat(path)
        self.offset = 0  # bytes that the server has
        self._record = ResumeRecord(
            "put", redact_url(url), os.path.join(os.path.realpath(path.parent), path.name)
        )

    async def attempt(self, conditions: Mapping[str, str]) -> bool:
        """Resume where the last attempt or the last run ended, or start.

        `conditions` are header fields about an existing file. Returns False if the server does not
        replace a file by tus; a PUT with If-Match may. Raises TransferError, RetryableError.
        """
        location, self.offset = await self._find_upload()
        if not location:
            created = await self._create(conditions)
            if created is None:
                return False
            location = created
        size = self.file_status.st_size
        self.reporter.start(self.offset, size)
        sha256 = await hash_path(self.path, self.offset)
        with open(self.path, "rb", buffering=0) as file:
            file.seek(self.offset)
            while self.offset < size:
                chunk = await asyncio.to_thread(file.read, min(CHUNK_BYTES, size - self.offset))
                if not chunk or self._changed(file.fileno()):
                    raise TransferError(
                        f"{self.path} changed during the upload; run the command again"
                    )
                await self._patch(location, self.offset, chunk)
                sha256.update(chunk)
                self.offset += len(chunk)
                self.outcome.sent += len(chunk)
        self._record.delete()
        self.outcome.size, self.outcome.sha256 = size, sha256.hexdigest()
        self.outcome.verified = self.checksums
        return True

    async def _find_upload(self) -> tuple[str, int]:
        """Return the URL of an earlier run's upload, and its offset; ("", 0) if there is none."""
        record = self._record.read()
        location = str(record.get("upload", ""))
        if not location or not same_origin(location, self.url):
            return "", 0
        response = await self.http.head(location, headers=TUS_HEADERS)
        if response.status_code in (403, 404, 410):
            self._record.delete()
            return "", 0
        await raise_for_status(response, 200, 204)
        identity = {"size": self.file_status.st_size, "mtime": self._mtime()}
        if any(record.get(key) != value for key, value in identity.items()):  # the file changed
            self._record.delete()
            await self.http.delete(location, headers=TUS_HEADERS)
            return "", 0
        return location, parsers.upload_offset(response, self.file_status.st_size)

    async def _create(self, conditions: Mapping[str, str]) -> str | None:
        """Return the URL of a new upload, None if the server does not replace files by tus."""
        directory, _, name = unquote_to_bytes(urlsplit(self.url).path).rpartition(b"/")
        metadata = ",".join(
            f"{key} {base64.b64encode(value).decode()}"
            for key, value in (("filename", name), ("directory", directory + b"/"))
        )
        response = await self.http.post(
            urljoin(self.url, UPLOADS_PATH),
            headers={
                **TUS_HEADERS,
                **conditions,
                "upload-length": str(self.file_status.st_size),
                "upload-metadata": metadata,
            },
        )
        if response.status_code == 409 and "if-match" in conditions:
            return None
        await raise_for_upload_status(response)
        location = str(parsers.location(response))
        if not same_origin(location, self.url):
            raise TransferError("the server sends the upload to another host, which is not trusted")
        warning = self._record.write(
            upload=location, size=self.file_status.st_size, mtime=self._mtime()
        )
        if warning:
            self.reporter.message(warning)
        return location

    async def _patch(self, location: str, offset: int, chunk: bytes) -> None:
        headers = {
            **TUS_HEADERS,
            "upload-offset": str(offset),
            "content-type": "application/offset+octet-stream",
            "content-length": str(len(chunk)),
        }
        if self.checksums:
            digest = base64.b64encode(hashlib.sha256(chunk).digest()).decode()
            headers["upload-checksum"] = f"sha256 {digest}"
        body = _split(chunk, self.reporter)
        response = await self.http.patch(location, headers=headers, content=body)
        if response.status_code == 409 and "upload-offset" in response.headers:
            raise RetryableError("the server has another offset")
        if response.status_code in (404, 410):
            self._record.delete()
            raise RetryableError("the server has discarded the upload")
        if response.status_code == 412:  # the file was created during the upload
            self._record.delete()
            raise TargetExists(EXISTS_MESSAGE.format(unquote(urlsplit(self.url).path)))
        await raise_for_status(response, 200, 204)
        if parsers.upload_offset(response, self.file_status.st_size) != offset + len(chunk):
            raise RetryableError("the server stored only a part of what was sent")

    def _mtime(self) -> int:
        return self.file_status.st_mtime_ns

    def _changed(self, fd: int) -> bool:
        now = os.fstat(fd)
        return (now.st_size, now.st_mtime_ns) != (self.file_status.st_size, self._mtime())


async def _split(chunk: bytes, reporter: ProgressReporter) -> AsyncIterator[bytes]:
    """Yield the chunk in blocks, and report each that was sent."""
    view = memoryview(chunk)
    for start in range(0, len(chunk), BLOCK_BYTES):
        block = bytes(view[start : start + BLOCK_BYTES])
        yield block
        reporter.advance(len(block))
