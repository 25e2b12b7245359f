"""The resource /-/uploads/ and the uploads below it.

Core protocol and the extensions creation, creation-with-upload, checksum, expiration, termination
and concatenation. The Upload-Offset of a response is what is on disk. A complete upload becomes a
file by a rename, as files stored by PUT do.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from email.utils import formatdate
from typing import Any

from noria.fileserver.file_age import AgeLimits
from noria.fileserver.file_store import FileStore
from noria.fileserver.partial_file import too_large
from noria.fileserver.quota import check_disk
from noria.fileserver.request_headers import require_same_site
from noria.fileserver.request_paths import parent_directory
from noria.fileserver.root import to_http_exception
from noria.fileserver.tus.fields import (
    CHECKSUM_ALGORITHMS,
    UPLOADS_PATH,
    destination_of,
    parse_number,
    parse_parts,
)
from noria.fileserver.tus.receiver import Receiver
from noria.fileserver.tus.upload_store import MAX_AGE, UploadInfo, UploadStore
from noria.http.messages import HTTPException, Request, Response
from noria.http.worker_threads import run_in_thread

VERSION = "1.0.0"
EXTENSIONS = "creation,creation-with-upload,checksum,expiration,termination,concatenation"
BODY_TYPE = "application/offset+octet-stream"
EXPIRE_INTERVAL = 900.0  # seconds between two removals of expired uploads


class TusHandler:
    """Handles the requests of tus; complete uploads become files of `files`."""

    def __init__(self, files: FileStore) -> None:
        self._files = files
        self._store = UploadStore(files.root)
        self._receiver = Receiver(files, self._store)
        self._age_limits = AgeLimits(MAX_AGE)
        self._timer: asyncio.TimerHandle | None = None
        self._expiring: asyncio.Future[None] | None = None

    def start(self) -> None:
        """Remove expired uploads, now and every EXPIRE_INTERVAL seconds."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(EXPIRE_INTERVAL, self.start)
        self._expiring = loop.run_in_executor(None, self._expire)

    def _expire(self) -> None:
        with suppress(OSError):  # the directory may not be writable; requests report that
            freed = self._store.expire(*self._age_limits.limits())
            self._files.quota.release(0, freed)

    def stop(self) -> None:
        """Stop removing expired uploads and close the directory of uploads."""
        if self._timer is not None:
            self._timer.cancel()
        if self._expiring is None or self._expiring.done():
            self._store.close()
        else:  # a thread uses the directory
            self._expiring.add_done_callback(lambda _: self._store.close())

    # Requests.

    async def handle(self, request: Request, upload: str) -> Response:
        """Return the response for /-/uploads/, or one upload. Raises HTTPException."""
        method = request.method
        if method == "POST":
            method = request.headers.get("x-http-method-override", "POST").upper()
        try:
            response = await self._dispatch(request, method, upload)
        except HTTPException as error:
            error.headers.append(("Tus-Resumable", VERSION))
            raise
        except OSError as error:
            if isinstance(error, ConnectionError):
                raise
            exception = to_http_exception(error)
            exception.headers.append(("Tus-Resumable", VERSION))
            raise exception from None
        response.headers.append(("Tus-Resumable", VERSION))
        return response

    async def _dispatch(self, request: Request, method: str, upload: str) -> Response:
        if method == "OPTIONS":
            return self._options()
        if request.headers.get("tus-resumable") != VERSION:
            raise HTTPException(
                412,
                f"The request must have Tus-Resumable: {VERSION}.",
                headers=[("Tus-Version", VERSION)],
            )
        self._files.require_writable()
        require_same_site(request.headers)
        handlers: dict[str, Callable[[Request, str], Any]] = (
            {"HEAD": self._head, "PATCH": self._patch, "DELETE": self._delete}
            if upload
            else {"POST": self._post}
        )
        handler = handlers.get(method)
        if handler is None:
            allowed = ", ".join([*handlers, "OPTIONS"])
            raise HTTPException(
                405, f"{method} is not supported here.", headers=[("Allow", allowed)]
            )
        response: Response = await handler(request, upload)
        return response

    def _options(self) -> Response:
        headers = [
            ("Tus-Version", VERSION),
            ("Tus-Extension", EXTENSIONS),
            ("Tus-Checksum-Algorithm", ",".join(CHECKSUM_ALGORITHMS)),
        ]
        if self._files.max_size is not None:
            headers.append(("Tus-Max-Size", str(self._files.max_size)))
        return Response(204, headers)

    async def _post(self, request: Request, _: str) -> Response:
        """Creation, creation-with-upload, concatenation."""
        headers = request.headers
        concat = headers.get("upload-concat").strip()
        if concat.startswith("final;"):
            return await self._concatenate(request, concat)
        if concat not in ("", "partial"):
            raise HTTPException(400, "Upload-Concat must be 'partial', or 'final;' and URLs.")
        if "upload-defer-length" in headers:
            raise HTTPException(400, "Upload-Defer-Length is not supported: send Upload-Length.")
        length = parse_number(headers.get("upload-length"), "Upload-Length")
        metadata = headers.get("upload-metadata")
        info = UploadInfo("", length, metadata, concat)
        if not concat:
            info = _with_conditions(replace(info, path=destination_of(metadata)), request)
        upload = await self._create(info)
        fields = [("Location", UPLOADS_PATH + upload)]
        offset = 0
        if headers.get("content-type").lower() == BODY_TYPE:
            offset = await self._receiver.receive(request, upload, info, 0)
        elif request.length:
            raise HTTPException(415, f"The Content-Type must be {BODY_TYPE}.")
        fields.append(("Upload-Offset", str(offset)))
        if offset == length and not concat:
            await self._finish(upload, info, request.user)
        fields += await self._expires_field(upload)
        return Response(201, fields)

    async def _create(self, info: UploadInfo) -> str:
        max_size = self._files.max_size
        if max_size is not None and info.length > max_size:
            raise HTTPException(413, too_large(max_size))
        await run_in_thread(self._check_acceptable, info)
        return await run_in_thread(self._store.create, info)

    def _check_acceptable(self, info: UploadInfo) -> None:
        """In a thread: raise the errors that are known before the upload is sent."""
        check_disk(self._files.root.fd, info.length, self._files.disk_floor)
        self._files.quota.check(info.length)
        if not info.path:
            return
        self._require_same_file_system(info.path)
        self._files.check_preconditions(
            info.path, if_match=info.if_match, if_none_match=info.if_none_match
        )

    def _require_same_file_system(self, path: str) -> None:
        """Raise HTTPException 409 if an upload cannot be renamed to `path`."""
        directory = parent_directory(path)
        while True:
            try:
                same = self._files.root.renames_to(directory)
                break
            except HTTPException as error:
                if error.status != 404 or directory == "/":
                    return  # the rename reports it
                # A missing directory will be created in the one above.
                directory = parent_directory(directory)
        if not same:
            raise HTTPException(
                409, "That directory is on another file system than the uploads: send by PUT."
            )

    async def _head(self, request: Request, upload: str) -> Response:
        info = await run_in_thread(self._store.info, upload)
        offset = await run_in_thread(self._store.offset, upload, info)
        if offset == info.length and info.concat != "partial":
            # The server may have crashed before the rename.
            await self._finish(upload, info, request.user)
        fields = [
            ("Upload-Offset", str(offset)),
            ("Upload-Length", str(info.length)),
            ("Cache-Control", "no-store"),
        ]
        if info.metadata:
            fields.append(("Upload-Metadata", info.metadata))
        if info.concat:
            fields.append(("Upload-Concat", info.concat))
        return Response(200, fields + await self._expires_field(upload))

    async def _patch(self, request: Request, upload: str) -> Response:
        if request.headers.get("content-type").lower() != BODY_TYPE:
            raise HTTPException(415, f"The Content-Type must be {BODY_TYPE}.")
        offset = parse_number(request.headers.get("upload-offset"), "Upload-Offset")
        info = await run_in_thread(self._store.info, upload)
        if info.concat.startswith("final"):
            raise HTTPException(403, "A final upload does not take bytes itself.")
        if await run_in_thread(self._store.is_finished, upload):
            if offset != info.length:
                raise HTTPException(409, f"The upload is at byte {info.length}, not at {offset}.")
        else:
            offset = await self._receiver.receive(request, upload, info, offset)
        if offset == info.length and not info.concat:
            await self._finish(upload, info, request.user)
        return Response(204, [("Upload-Offset", str(offset)), *await self._expires_field(upload)])

    async def _delete(self, request: Request, upload: str) -> Response:
        """Termination. A file that the upload has become is not removed."""
        await run_in_thread(self._store.info, upload)
        await run_in_thread(self._remove, upload)
        return Response(204)

    def _remove(self, upload: str) -> None:
        if self._store.is_finished(upload):
            self._store.remove(upload)
            return
        with self._store.locked(upload):
            self._files.quota.release(0, self._store.remove(upload))

    async def _concatenate(self, request: Request, concat: str) -> Response:
        parts = parse_parts(concat)
        if "upload-length" in request.headers:
            raise HTTPException(400, "A final upload must not have Upload-Length.")
        metadata = request.headers.get("upload-metadata")
        length = 0
        for part in parts:
            info = await run_in_thread(self._store.info, part)
            if info.concat != "partial":
                raise HTTPException(400, "Only partial uploads can be concatenated.")
            if await run_in_thread(self._store.offset, part, info) != info.length:
                raise HTTPException(409, "A partial upload is not complete.")
            length += info.length
        final = _with_conditions(
            UploadInfo(destination_of(metadata), length, metadata, concat), request
        )
        upload = await self._create(final)
        await run_in_thread(self._join, parts, upload, length)
        await self._finish(upload, final, request.user)
        for part in parts:
            with suppress(HTTPException):
                await run_in_thread(self._remove, part)
        return Response(
            201, [("Location", UPLOADS_PATH + upload), *await self._expires_field(upload)]
        )

    def _join(self, parts: list[str], upload: str, length: int) -> None:
        self._files.quota.reserve(length)
        try:
            self._store.concatenate(parts, upload)
        except BaseException:
            self._files.quota.release(length, self._store.remove(upload))
            raise
        self._files.quota.release(length)

    async def _finish(self, upload: str, info: UploadInfo, user: str) -> None:
        """Rename the complete upload to its path, unless that was done before."""
        if await run_in_thread(self._store.is_finished, upload):
            return
        fd = await run_in_thread(self._store.lock, upload)
        try:
            await self._files.store_existing(
                self._store.data_path(upload),
                info.path,
                if_match=info.if_match,
                if_none_match=info.if_none_match,
                parents=True,
                user=user,
            )
        except HTTPException as error:
            if error.status in (403, 409, 412):  # a retry would fail in the same way
                self._files.quota.release(0, await run_in_thread(self._store.remove, upload))
            raise
        finally:
            os.close(fd)

    async def _expires_field(self, upload: str) -> list[tuple[str, str]]:
        when = await run_in_thread(self._store.expires, upload)
        return [("Upload-Expires", formatdate(when, usegmt=True))]


def _with_conditions(info: UploadInfo, request: Request) -> UploadInfo:
    """The info with the conditions of the request."""
    headers = request.headers
    return replace(
        info,
        if_match=headers.get("if-match"),
        if_none_match=headers.get("if-none-match"),
    )
