"""A file as the answer to GET or HEAD: conditions, ranges, siblings, and the fields that say so."""

from __future__ import annotations

import os
import stat

from noria._core.files.cached_read import read_cached
from noria.fileserver.request_paths import names
from noria.fileserver.root import Root
from noria.http import content_negotiation, digests, media_types, ranges
from noria.http.conditional import (
    FileStatus,
    etag,
    evaluate_preconditions,
    http_date,
    if_range_matches,
)
from noria.http.messages import FileBody, HTTPException, Request, Response
from noria.http.worker_threads import ThreadedIterator, run_in_thread

# Suffixes of the compressed siblings of a file, by content coding.
CODING_SUFFIXES = {"br": ".br", "zstd": ".zst", "gzip": ".gz"}

SMALL = 64 * 1024  # bytes up to which a file that is in memory is answered as bytes


async def answer_file(
    root: Root, request: Request, fd: int, *, inline_active: bool, known: digests.DigestCache
) -> Response:
    """The answer of the open file `fd`, which it closes or hands on. Raises HTTPException."""
    try:
        return await _File(root, request, inline_active, known).answer(fd)
    except BaseException:
        os.close(fd)
        raise


class _File:
    def __init__(
        self, root: Root, request: Request, inline_active: bool, known: digests.DigestCache
    ):
        self.known = known
        self.root = root
        self.request = request
        self.inline_active = inline_active
        self.name = names(request.path)[-1]

    async def answer(self, fd: int) -> Response:
        """Closes `fd` unless the body is read from it or this raises."""
        coding, sibling, status = await self._sibling(os.fstat(fd))
        if sibling >= 0:
            # The caller knows this number: the sibling takes it over.
            os.dup2(sibling, fd, inheritable=False)
            os.close(sibling)
        headers = fields_of(
            self.name,
            status,
            coding,
            inline_active=self.inline_active,
            download="download" in self.request.query,
        )
        outcome = evaluate_preconditions(self.request.headers, status)
        if outcome == 412:
            raise HTTPException(412, "The file is not what the request names: it was changed.")
        if outcome == 304:
            os.close(fd)
            kept = ("ETag", "Last-Modified", "Vary", "Cache-Control")
            return Response(304, [field for field in headers if field[0] in kept])
        if self._wants_digest():
            headers.append(("Repr-Digest", await self.known.repr_digest(fd, etag(status))))
        asked = self.request.headers.get("range")
        if (
            asked
            and self.request.method == "GET"
            and if_range_matches(self.request.headers, status)
        ):
            found = ranges.parse_range(asked, status.st_size)
            if found is not None:
                return self._ranges(fd, status.st_size, headers, found)
        headers.append(("Content-Length", str(status.st_size)))
        return Response(200, headers, self._body(fd, 0, status.st_size))

    async def _sibling(self, plain: os.stat_result) -> tuple[str, int, os.stat_result]:
        """(coding, descriptor, status) of the best sibling that is accepted, or ("", -1, plain)."""
        if "download" in self.request.query:
            return "", -1, plain
        for coding in content_negotiation.preferred_codings(
            self.request.headers.get("accept-encoding")
        ):
            path = self.request.path + CODING_SUFFIXES[coding]
            try:
                fd = self.root.open_cached(path)
                if fd is None:
                    fd = await run_in_thread(self.root.open, path, os.O_RDONLY)
            except HTTPException:
                continue
            status = os.fstat(fd)
            # One that is older than the file was made of another content.
            if stat.S_ISREG(status.st_mode) and status.st_mtime_ns >= plain.st_mtime_ns:
                return coding, fd, status
            os.close(fd)
        return "", -1, plain

    def _wants_digest(self) -> bool:
        wanted = self.request.headers.get("want-repr-digest").replace(" ", "")
        return "sha-256=" in wanted and "sha-256=0" not in wanted

    def _ranges(
        self, fd: int, size: int, headers: list[tuple[str, str]], found: list[tuple[int, int]]
    ) -> Response:
        if len(found) == 1:
            offset, length = found[0]
            headers.append(("Content-Range", ranges.format_content_range(offset, length, size)))
            headers.append(("Content-Length", str(length)))
            return Response(206, headers, self._body(fd, offset, length))
        several = ranges.MultipartByteRanges(found, size, dict(headers)["Content-Type"])
        headers[0] = ("Content-Type", f"multipart/byteranges; boundary={several.boundary}")
        headers.append(("Content-Length", str(several.content_length)))
        return Response(206, headers, ThreadedIterator(several.read_blocks(fd), fd))

    def _body(self, fd: int, offset: int, size: int) -> bytes | FileBody:
        """Bytes if there are few and the kernel has them in memory, so that nothing waits."""
        if self.request.method == "HEAD":
            os.close(fd)
            return b""
        if size > SMALL:
            return FileBody(fd, offset, size)
        try:
            data = read_cached(fd, size, offset)
        except OSError:  # who sends it meets it again
            data = None
        if data is None or len(data) < size:
            return FileBody(fd, offset, size)
        os.close(fd)
        return data


def fields_of(
    name: str,
    status: FileStatus,
    coding: str = "",
    *,
    inline_active: bool,
    download: bool = False,
) -> list[tuple[str, str]]:
    """What is said of a file whatever is sent of it."""
    kind = media_types.guess_media_type(name)
    headers = [
        ("Content-Type", kind),
        ("ETag", etag(status)),
        ("Last-Modified", http_date(status.st_mtime)),
        ("Accept-Ranges", "bytes"),
        ("Vary", "Accept-Encoding"),
        ("Cache-Control", "no-cache"),
    ]
    if coding:
        headers.append(("Content-Encoding", coding))
    hazard = media_types.is_active(name, kind) and not inline_active
    if hazard or download:
        headers.append(("Content-Disposition", media_types.attachment_disposition(name)))
    if hazard:
        headers.append(("Content-Security-Policy", "sandbox; default-src 'none'"))
    return headers
