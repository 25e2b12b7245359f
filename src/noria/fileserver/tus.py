"""Uploads that can be resumed: tus 1.0.0 (tus.io/protocols/resumable-upload).

Core, creation, creation-with-upload, checksum, expiration, termination and concatenation. The
offset that a client is told is what is on disk; a whole upload goes in as the service's other
files do, by a rename.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from email.utils import formatdate
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from noria._core.files.splice import Splice
from noria.fileserver.file_age import Ages
from noria.fileserver.partial_uploads import LIFE, Facts, Store
from noria.fileserver.quota import check_disk
from noria.fileserver.request_paths import directory_of
from noria.fileserver.root import to_http_exception
from noria.fileserver.service import require_file, require_same_site
from noria.fileserver.storage import ahead, write_all
from noria.http.body_to_file import write_body
from noria.http.messages import HTTPException, Request, Response
from noria.http.request_body import RequestBody

if TYPE_CHECKING:
    from noria.fileserver.service import FileService

T = TypeVar("T")

VERSION = "1.0.0"
EXTENSIONS = "creation,creation-with-upload,checksum,expiration,termination,concatenation"
CHECKSUMS = ("sha1", "sha256")
PLACE = "/-/uploads/"
KIND = "application/offset+octet-stream"
METADATA = 4096  # bytes
PARTS = 1000  # of one concatenation
ROUND = 900.0  # seconds between two looks for uploads that are too old
PATIENCE = 5.0  # seconds that the end of a lost request may take
MISMATCH = 460  # tus: Checksum Mismatch


class Uploads:
    """The resource /-/uploads/ and the uploads below it."""

    def __init__(self, service: FileService, max_size: int | None) -> None:
        self._service = service
        self._store = Store(service.root)
        self._max_size = max_size
        self._ages = Ages(LIFE)
        self._timer: asyncio.TimerHandle | None = None
        self._expiring: asyncio.Future[None] | None = None
        self._busy: dict[str, tuple[object, asyncio.Event]] = {}  # who is sending to which

    # Its life.

    def start(self) -> None:
        """Removes uploads that are too old, now and from time to time."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(ROUND, self.start)
        self._expiring = loop.run_in_executor(None, self._expire)

    def _expire(self) -> None:
        with suppress(OSError):  # the directory may not be writable yet; requests say so
            freed = self._store.expire(*self._ages.limits())
            self._service.quota.end(0, freed)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._expiring is None or self._expiring.done():
            self._store.close()
        else:  # a thread has the directory in use
            self._expiring.add_done_callback(lambda _: self._store.close())

    # Requests.

    async def handle(self, request: Request, upload: str) -> Response:
        """The answer to a request of /-/uploads/ or one upload; raises HTTPException."""
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
            said = to_http_exception(error)
            said.headers.append(("Tus-Resumable", VERSION))
            raise said from None
        response.headers.append(("Tus-Resumable", VERSION))
        return response

    async def _dispatch(self, request: Request, method: str, upload: str) -> Response:
        if method == "OPTIONS":
            return self._options()
        if request.headers.get("tus-resumable") != VERSION:
            raise HTTPException(
                412, f"Send Tus-Resumable: {VERSION}.", headers=[("Tus-Version", VERSION)]
            )
        self._service.require_writable()
        require_same_site(request.headers)
        commands: dict[str, Callable[[Request, str], Any]] = (
            {"HEAD": self._head, "PATCH": self._patch, "DELETE": self._delete}
            if upload
            else {"POST": self._post}
        )
        command = commands.get(method)
        if command is None:
            allowed = ", ".join([*commands, "OPTIONS"])
            raise HTTPException(405, f"{method} is not served here.", headers=[("Allow", allowed)])
        response: Response = await command(request, upload)
        return response

    def _options(self) -> Response:
        headers = [
            ("Tus-Version", VERSION),
            ("Tus-Extension", EXTENSIONS),
            ("Tus-Checksum-Algorithm", ",".join(CHECKSUMS)),
        ]
        if self._max_size is not None:
            headers.append(("Tus-Max-Size", str(self._max_size)))
        return Response(204, headers)

    async def _post(self, request: Request, _: str) -> Response:
        """Creation."""
        headers = request.headers
        concat = headers.get("upload-concat").strip()
        if concat.startswith("final;"):
            return await self._concatenate(request, concat)
        if concat not in ("", "partial"):
            raise HTTPException(400, "Upload-Concat is 'partial' or 'final;' and the parts.")
        if "upload-defer-length" in headers:
            raise HTTPException(400, "The length of an upload must be known: send Upload-Length.")
        length = number(headers.get("upload-length"), "Upload-Length")
        metadata = headers.get("upload-metadata")
        facts = Facts("", length, metadata, concat)
        if not concat:
            facts = _bound(replace(facts, path=destination(metadata)), request)
        upload = await self._create(facts)
        fields = [("Location", PLACE + upload)]
        offset = 0
        if headers.get("content-type").lower() == KIND:
            offset = await self._receive(request, upload, facts, 0)
        elif request.length:
            raise HTTPException(415, f"The Content-Type of an upload's bytes is {KIND}.")
        fields.append(("Upload-Offset", str(offset)))
        if offset == length and not concat:
            await self._finish(upload, facts)
        fields += await self._expiry(upload)
        return Response(201, fields)

    async def _create(self, facts: Facts) -> str:
        if self._max_size is not None and facts.length > self._max_size:
            raise HTTPException(413, f"The file is too large: {self._max_size} bytes are the most.")
        await self._off(self._room, facts)
        return await self._off(self._store.create, facts)

    def _room(self, facts: Facts) -> None:
        """Says before anything is sent what can be known then."""
        check_disk(self._service.root.fd, facts.length, self._service.disk_floor)
        self._service.quota.check(facts.length)
        if not facts.path:
            return
        self._same_disk(facts.path)
        self._service.foresee(
            facts.path, if_match=facts.if_match, if_none_match=facts.if_none_match
        )

    def _same_disk(self, path: str) -> None:
        """A whole upload is renamed, which does not go from one file system to another."""
        directory = directory_of(path)
        while True:
            try:
                same = self._service.root.renames_to(directory)
                break
            except HTTPException as error:
                if error.status != 404 or directory == "/":
                    return  # said when it is tried
                directory = directory_of(directory)  # what is missing is made in the one above
        if not same:
            raise HTTPException(409, "That directory is another file system: send the file by PUT.")

    async def _head(self, request: Request, upload: str) -> Response:
        facts = await self._off(self._store.facts, upload)
        offset = await self._off(self._store.offset, upload, facts)
        if offset == facts.length and facts.concat != "partial":
            await self._finish(upload, facts)  # if its end was lost in a crash
        fields = [
            ("Upload-Offset", str(offset)),
            ("Upload-Length", str(facts.length)),
            ("Cache-Control", "no-store"),
        ]
        if facts.metadata:
            fields.append(("Upload-Metadata", facts.metadata))
        if facts.concat:
            fields.append(("Upload-Concat", facts.concat))
        return Response(200, fields + await self._expiry(upload))

    async def _patch(self, request: Request, upload: str) -> Response:
        if request.headers.get("content-type").lower() != KIND:
            raise HTTPException(415, f"The Content-Type of an upload's bytes is {KIND}.")
        offset = number(request.headers.get("upload-offset"), "Upload-Offset")
        facts = await self._off(self._store.facts, upload)
        if facts.concat.startswith("final"):
            raise HTTPException(403, "An upload made of others takes no bytes itself.")
        if await self._off(self._store.finished, upload):
            if offset != facts.length:
                raise HTTPException(
                    409, f"The upload is at {facts.length} bytes, and not at {offset}."
                )
        else:
            offset = await self._receive(request, upload, facts, offset)
        if offset == facts.length and not facts.concat:
            await self._finish(upload, facts)
        return Response(204, [("Upload-Offset", str(offset)), *await self._expiry(upload)])

    async def _delete(self, request: Request, upload: str) -> Response:
        """Termination. A file that the upload has become already stays."""
        await self._off(self._store.facts, upload)
        await self._off(self._remove, upload)
        return Response(204)

    def _remove(self, upload: str) -> None:
        if self._store.finished(upload):
            self._store.remove(upload)
            return
        with self._store.held(upload):
            self._service.quota.end(0, self._store.remove(upload))

    async def _concatenate(self, request: Request, concat: str) -> Response:
        places = concat.removeprefix("final;").split()
        if not 0 < len(places) <= PARTS:
            raise HTTPException(400, f"A final upload is made of 1 to {PARTS} parts.")
        if "upload-length" in request.headers:
            raise HTTPException(400, "The length of a final upload is that of its parts together.")
        try:
            parts = [urlsplit(place).path.removeprefix(PLACE) for place in places]
        except ValueError:
            raise HTTPException(400, "Upload-Concat names a part by no valid URL.") from None
        metadata = request.headers.get("upload-metadata")
        length = 0
        for part in parts:
            facts = await self._off(self._store.facts, part)
            if facts.concat != "partial":
                raise HTTPException(400, "Only partial uploads can be made into one.")
            if await self._off(self._store.offset, part, facts) != facts.length:
                raise HTTPException(409, "A part has not arrived as a whole.")
            length += facts.length
        final = _bound(Facts(destination(metadata), length, metadata, concat), request)
        upload = await self._create(final)
        await self._off(self._join, parts, upload, length)
        await self._finish(upload, final)
        for part in parts:
            with suppress(HTTPException):
                await self._off(self._remove, part)
        return Response(201, [("Location", PLACE + upload), *await self._expiry(upload)])

    def _join(self, parts: list[str], upload: str, length: int) -> None:
        self._service.quota.take(length)
        try:
            self._store.join(parts, upload)
        except BaseException:
            self._service.quota.end(length, self._store.remove(upload))
            raise
        self._service.quota.end(length)

    # Bytes.

    async def _receive(self, request: Request, upload: str, facts: Facts, offset: int) -> int:
        """Takes the body as it comes; returns the new offset. What has arrived stays.

        With a checksum it stays only if that is right, or it raises HTTPException 460.
        """
        check = _Checksum.of(request.headers.get("upload-checksum"))
        if request.length is not None and offset + request.length > facts.length:
            raise HTTPException(413, "The body is longer than what is missing of the upload.")
        await self._take_over(upload)
        # From here on, before the lock is asked for: who comes meanwhile must know of this one.
        over = asyncio.Event()
        self._busy[upload] = mine = (request.body, over)
        try:
            return await self._locked(request, upload, facts, offset, check)
        finally:
            if self._busy.get(upload) is mine:
                del self._busy[upload]
            over.set()

    async def _locked(
        self, request: Request, upload: str, facts: Facts, offset: int, check: _Checksum | None
    ) -> int:
        fd = await self._off(self._store.hold, upload)
        try:
            writer = _Writer(self._service, fd, facts.length)
            await self._off(self._prepare, fd, upload, facts, offset, check is not None)
            writer.offset = offset
            try:
                await self._take(request, writer, check)
            finally:
                await asyncio.shield(self._off(writer.settle))
            if check is not None:
                if not check.right():
                    await self._off(writer.cut, offset)
                await self._off(self._store.write, upload, replace(facts, unverified=None))
                if not check.right():
                    raise HTTPException(
                        MISMATCH, "The checksum of the body is not the one it came with."
                    )
        finally:
            os.close(fd)
        return writer.offset

    async def _take_over(self, upload: str) -> None:
        """Who goes on with an upload has lost its former connection, which may not know yet."""
        while (former := self._busy.get(upload)) is not None:
            body, over = former
            if isinstance(body, RequestBody):
                body.fail(ConnectionResetError("another request goes on with the upload"))
            try:
                async with asyncio.timeout(PATIENCE):
                    await over.wait()
            except TimeoutError:
                return  # it is still written: 423 comes of that

    def _prepare(self, fd: int, upload: str, facts: Facts, offset: int, verifying: bool) -> None:
        size = os.fstat(fd).st_size
        known = self._store.facts(upload).unverified
        if known is not None and known < size:
            os.ftruncate(fd, known)  # what came before a crash, and nobody verified
            self._service.quota.end(0, size - known)
            size = known
        if size != offset:
            raise HTTPException(409, f"The upload is at {size} bytes, and not at {offset}.")
        if verifying or known is not None:
            after = replace(facts, unverified=size if verifying else None)
            self._store.write(upload, after)

    async def _take(self, request: Request, writer: _Writer, check: _Checksum | None) -> None:
        """What has arrived is kept, also if the connection is lost."""
        rest: list[bytes] = []
        try:
            move = writer.move if check is None else None
            await write_body(request.body, partial(writer.write, check=check), move, rest)
        finally:
            if rest:
                await asyncio.shield(self._off(writer.write, rest, check))

    async def _finish(self, upload: str, facts: Facts) -> None:
        """Puts the whole upload in its place; nothing if it is there."""
        if await self._off(self._store.finished, upload):
            return
        fd = await self._off(self._store.hold, upload)
        try:
            await self._service.adopt(
                self._store.source(upload),
                facts.path,
                if_match=facts.if_match,
                if_none_match=facts.if_none_match,
                parents=True,
            )
        except HTTPException as error:
            if error.status in (403, 409, 412):  # it will not be different another time
                self._service.quota.end(0, await self._off(self._store.remove, upload))
            raise
        finally:
            os.close(fd)

    async def _expiry(self, upload: str) -> list[tuple[str, str]]:
        when = await self._off(self._store.expires, upload)
        return [("Upload-Expires", formatdate(when, usegmt=True))]

    @staticmethod
    async def _off(work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(None, work, *arguments)


def _bound(facts: Facts, request: Request) -> Facts:
    """The facts with the request's conditions."""
    headers = request.headers
    return replace(
        facts,
        if_match=headers.get("if-match"),
        if_none_match=headers.get("if-none-match"),
    )


class _Writer:
    """Appends to an upload, in threads; never past its length."""

    def __init__(self, service: FileService, fd: int, length: int) -> None:
        self._service = service
        self._fd = fd
        self._length = length
        self.offset = 0
        self._reserved = 0

    def write(self, blocks: list[bytes], check: _Checksum | None) -> None:
        with self._taken(sum(map(len, blocks))):
            os.lseek(self._fd, self.offset, os.SEEK_SET)
            try:
                write_all(self._fd, blocks)
            finally:
                self.offset = os.lseek(self._fd, 0, os.SEEK_CUR)
            if check is not None:
                for block in blocks:
                    check.update(block)

    def move(self, splice: Splice, source: int, most: int) -> tuple[int, int]:
        """As Part.move."""
        with self._taken(most):
            os.lseek(self._fd, self.offset, os.SEEK_SET)
            try:
                self._reserved = ahead(self._fd, self.offset, most, self._reserved)
                count, why = splice.move(source, self._fd, most)
            finally:
                self.offset = os.lseek(self._fd, 0, os.SEEK_CUR)
            return count, why

    @contextmanager
    def _taken(self, count: int) -> Iterator[None]:
        """Reserve `count` bytes of quota; what is not written is released. Raises HTTPException."""
        if self.offset + count > self._length:
            raise HTTPException(413, "The body is longer than what is missing of the upload.")
        check_disk(self._fd, count, self._service.disk_floor)
        self._service.quota.take(count)
        before = self.offset
        try:
            yield
        finally:
            self._service.quota.end(count, count - (self.offset - before))

    def settle(self) -> None:
        """What the client is told to be here must be here after a crash."""
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise

    def cut(self, offset: int) -> None:
        os.ftruncate(self._fd, offset)
        self._service.quota.end(0, self.offset - offset)
        self.offset = offset


class _Checksum:
    """Upload-Checksum: the algorithm and the digest in base64."""

    def __init__(self, name: str, digest: bytes) -> None:
        self._hash = hashlib.new(name)
        self._digest = digest

    @classmethod
    def of(cls, text: str) -> _Checksum | None:
        """None without one; raises HTTPException 400."""
        if not text:
            return None
        name, _, value = text.partition(" ")
        if name not in CHECKSUMS:
            raise HTTPException(400, f"The checksums known here: {', '.join(CHECKSUMS)}.")
        try:
            return cls(name, base64.b64decode(value.strip(), validate=True))
        except ValueError:
            raise HTTPException(
                400, "Upload-Checksum is an algorithm and a digest in base64."
            ) from None

    def update(self, data: bytes) -> None:
        self._hash.update(data)

    def right(self) -> bool:
        return self._hash.digest() == self._digest


def number(text: str, name: str) -> int:
    """A decimal number of a field; raises HTTPException 400."""
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise HTTPException(400, f"{name} must come once, as a decimal number of bytes.")
    return int(text)


def read_metadata(text: str) -> dict[str, str]:
    """Upload-Metadata: pairs of a key and a value in base64, with commas between.

    Raises HTTPException 400.
    """
    if len(text) > METADATA:
        raise HTTPException(400, f"Upload-Metadata has {METADATA} bytes at most.")
    found = {}
    for pair in text.split(",") if text.strip() else ():
        key, _, value = pair.strip().partition(" ")
        try:
            found[key] = base64.b64decode(value.strip(), validate=True).decode()
        except ValueError:
            raise HTTPException(
                400, f"In Upload-Metadata the value of {key!r} is not UTF-8 in base64."
            ) from None
    return found


def destination(metadata: str) -> str:
    """The path that an upload becomes: of `directory` and `relativePath` or `filename`.

    Raises HTTPException 400, and as names do.
    """
    found = read_metadata(metadata)
    directory = found.get("directory") or "/"
    name = found.get("relativePath") or ""
    if name in ("", "null"):  # some clients send null for a file that was chosen by itself
        name = found.get("filename") or found.get("name") or ""
        if "/" in name:
            raise HTTPException(
                400, "The filename in Upload-Metadata has a slash: use relativePath."
            )
    if not name:
        raise HTTPException(400, "Upload-Metadata needs the filename.")
    if not (directory.startswith("/") and directory.endswith("/")):
        raise HTTPException(400, "The directory in Upload-Metadata begins and ends with '/'.")
    path = directory + name.removeprefix("/")
    require_file(path)
    return path
