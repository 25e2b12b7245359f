"""Receive the bodies of requests into uploads, one request per upload at a time."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from functools import partial

from noria.fileserver.file_store import FileStore
from noria.fileserver.tus.fields import Checksum
from noria.fileserver.tus.upload_store import UploadInfo, UploadStore
from noria.fileserver.tus.writer import TOO_LONG, UploadWriter
from noria.http.body_to_file import write_body
from noria.http.messages import HTTPException, Request
from noria.http.request_body import RequestBody
from noria.http.worker_threads import run_in_thread

TAKEOVER_TIMEOUT = 5.0  # seconds that the end of an interrupted request may take
CHECKSUM_MISMATCH = 460  # status of tus


class Receiver:
    """Appends request bodies to the uploads in `store`."""

    def __init__(self, files: FileStore, store: UploadStore) -> None:
        self._files = files
        self._store = store
        # For each upload, the body of the request that is sending to it and the event of its end.
        self._active: dict[str, tuple[object, asyncio.Event]] = {}

    async def receive(self, request: Request, upload: str, info: UploadInfo, offset: int) -> int:
        """Append the body at `offset`; return the new offset.

        If the connection is lost, the bytes received so far are kept. With a checksum they are
        kept only if it matches: otherwise this raises HTTPException 460.
        """
        checksum = Checksum.parse(request.headers.get("upload-checksum"))
        if request.length is not None and offset + request.length > info.length:
            raise HTTPException(413, TOO_LONG)
        await self._end_active_request(upload)
        # Registered before the lock is taken, so that the next request finds this one.
        ended = asyncio.Event()
        self._active[upload] = this = (request.body, ended)
        try:
            return await self._receive_locked(request, upload, info, offset, checksum)
        finally:
            if self._active.get(upload) is this:
                del self._active[upload]
            ended.set()

    async def _end_active_request(self, upload: str) -> None:
        """End the request that is sending to `upload`.

        A client resumes an upload when it has lost its connection, which the server may not have
        noticed yet.
        """
        while (active := self._active.get(upload)) is not None:
            body, ended = active
            if isinstance(body, RequestBody):
                body.fail(ConnectionResetError("another request resumed the upload"))
            try:
                async with asyncio.timeout(TAKEOVER_TIMEOUT):
                    await ended.wait()
            except TimeoutError:
                return  # still writing: taking the lock raises 423

    async def _receive_locked(
        self,
        request: Request,
        upload: str,
        info: UploadInfo,
        offset: int,
        checksum: Checksum | None,
    ) -> int:
        fd = await run_in_thread(self._store.lock, upload)
        try:
            writer = UploadWriter(self._files, fd, info.length)
            await run_in_thread(self._prepare, fd, upload, info, offset, checksum is not None)
            writer.offset = offset
            try:
                await self._write_body(request, writer, checksum)
            finally:
                await asyncio.shield(run_in_thread(writer.sync))
            if checksum is not None:
                if not checksum.matches():
                    await run_in_thread(writer.truncate, offset)
                await run_in_thread(self._store.write, upload, replace(info, unverified=None))
                if not checksum.matches():
                    raise HTTPException(
                        CHECKSUM_MISMATCH,
                        "The checksum of the body does not match Upload-Checksum.",
                    )
        finally:
            os.close(fd)
        return writer.offset

    def _prepare(
        self, fd: int, upload: str, info: UploadInfo, offset: int, has_checksum: bool
    ) -> None:
        """In a thread: check the offset, discard bytes that were never verified."""
        size = os.fstat(fd).st_size
        unverified = self._store.info(upload).unverified
        if unverified is not None and unverified < size:
            os.ftruncate(fd, unverified)  # received before a crash, without a checked checksum
            self._files.quota.release(0, size - unverified)
            size = unverified
        if size != offset:
            raise HTTPException(409, f"The upload is at byte {size}, not at {offset}.")
        if has_checksum or unverified is not None:
            after = replace(info, unverified=size if has_checksum else None)
            self._store.write(upload, after)

    async def _write_body(
        self, request: Request, writer: UploadWriter, checksum: Checksum | None
    ) -> None:
        """Write the body; what has arrived is written even if the connection is lost."""
        rest: list[bytes] = []
        try:
            move = writer.move if checksum is None else None
            await write_body(request.body, partial(writer.write, checksum=checksum), move, rest)
        finally:
            if rest:
                await asyncio.shield(run_in_thread(writer.write, rest, checksum))
