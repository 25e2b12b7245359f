"""The response to GET and HEAD of a file: conditions, ranges, compressed siblings, digests."""

from __future__ import annotations

import os
import stat

from noria._core.files.cached_read import read_cached
from noria.fileserver.request_paths import split_path
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
SMALL_FILE = 64 * 1024  # bytes; a file in memory up to this size is sent as bytes


async def file_response(
    root: Root,
    request: Request,
    fd: int,
    *,
    inline_active: bool,
    known_digests: digests.DigestCache,
) -> Response:
    """The response with the open file `fd`, which it closes or passes on. Raises HTTPException."""
    try:
        return await _FileResponder(root, request, inline_active, known_digests).respond(fd)
    except BaseException:
        os.close(fd)
        raise


class _FileResponder:
    def __init__(
        self, root: Root, request: Request, inline_active: bool, known: digests.DigestCache
    ):
        self.known_digests = known
        self.root = root
        self.request = request
        self.inline_active = inline_active
        self.name = split_path(request.path)[-1]

    async def respond(self, fd: int) -> Response:
        """Return the response; close `fd` unless the body is read from it or this raises."""
        coding, sibling, status = await self._sibling(os.fstat(fd))
        if sibling >= 0:
            # The caller knows the number `fd`, so the sibling is duplicated onto it.
            os.dup2(sibling, fd, inheritable=False)
            os.close(sibling)
        headers = file_fields(
            self.name,
            status,
            coding,
            inline_active=self.inline_active,
            download="download" in self.request.query,
        )
        outcome = evaluate_preconditions(self.request.headers, status)
        if outcome == 412:
            raise HTTPException(412, "The file was changed since the request's condition was made.")
        if outcome == 304:
            os.close(fd)
            kept = ("ETag", "Last-Modified", "Vary", "Cache-Control")
            return Response(304, [field for field in headers if field[0] in kept])
        if self._wants_digest():
            headers.append(("Repr-Digest", await self.known_digests.repr_digest(fd, etag(status))))
        requested = self.request.headers.get("range")
        if (
            requested
            and self.request.method == "GET"
            and if_range_matches(self.request.headers, status)
        ):
            found = ranges.parse_range(requested, status.st_size)
            if found is not None:
                return self._ranges(fd, status.st_size, headers, found)
        headers.append(("Content-Length", str(status.st_size)))
        return Response(200, headers, self._body(fd, 0, status.st_size))

    async def _sibling(self, plain: os.stat_result) -> tuple[str, int, os.stat_result]:
        """(coding, descriptor, status) of the best accepted sibling, or ("", -1, plain)."""
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
            # A sibling that is older than the file was made from an older version.
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
        multipart = ranges.MultipartByteRanges(found, size, dict(headers)["Content-Type"])
        headers[0] = ("Content-Type", f"multipart/byteranges; boundary={multipart.boundary}")
        headers.append(("Content-Length", str(multipart.content_length)))
        return Response(206, headers, ThreadedIterator(multipart.read_blocks(fd), fd))

    def _body(self, fd: int, offset: int, size: int) -> bytes | FileBody:
        """The body: bytes if the file is small and in memory, else the open file."""
        if self.request.method == "HEAD":
            os.close(fd)
            return b""
        if size > SMALL_FILE:
            return FileBody(fd, offset, size)
        try:
            data = read_cached(fd, size, offset)
        except OSError:  # sending the file will report it
            data = None
        if data is None or len(data) < size:
            return FileBody(fd, offset, size)
        os.close(fd)
        return data


def file_fields(
    name: str,
    status: FileStatus,
    coding: str = "",
    *,
    inline_active: bool,
    download: bool = False,
) -> list[tuple[str, str]]:
    """The header fields of a file, for all its responses."""
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
