"""The file service: it takes a request and returns a response, without a socket or a parser.

Disk operations run in threads of the loop's default executor, except opening and reading files
that the kernel has in memory.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Awaitable
from urllib.parse import quote, urlencode

from noria.fileserver import archive, listing
from noria.fileserver.error_pages import HTML_FIELDS, error_response, is_browser_form
from noria.fileserver.fast_path import FastPath
from noria.fileserver.file_response import file_response
from noria.fileserver.file_store import FileStore
from noria.fileserver.quota import Quota
from noria.fileserver.request_headers import destination, require_same_site
from noria.fileserver.request_paths import (
    check_name,
    is_reserved,
    is_valid_name,
    split_path,
    to_url,
)
from noria.fileserver.root import Root, to_http_exception
from noria.http import content_negotiation, digests, media_types
from noria.http.messages import READ_METHODS, HTTPException, Request, Response
from noria.http.multipart import MultipartForm, parse_boundary
from noria.http.worker_threads import ThreadedIterator, run_in_thread

log = logging.getLogger("noria")

DISK_FLOOR = 256 * 1024 * 1024  # bytes of the disk that are kept free
METHODS = f"{READ_METHODS}, PUT, POST, DELETE, MOVE, MKCOL"


class FileService:
    """Serves the directory `root`.

    - `uploads`: files may be stored, deleted and moved, directories created.
    - `overwrite`: a PUT may replace a file without its ETag, and a MOVE with ``Overwrite: T``.
    - `read_only`: no changes, whatever the other arguments are.
    - `max_size`: bytes of one file; `quota`: bytes of all files together; `disk_floor`: bytes of
      the disk that are kept free.
    - `inline_active`: browsers may show HTML, SVG and the like, which can run scripts, instead of
      saving them.
    - `native`: as for Root; `quota_fd`: as for Quota.

    `files` is the FileStore that makes changes. Raises OSError if `root` cannot be opened as a
    directory.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        uploads: bool = False,
        overwrite: bool = False,
        read_only: bool = False,
        max_size: int | None = None,
        quota: int | None = None,
        disk_floor: int = DISK_FLOOR,
        inline_active: bool = False,
        native: bool | None = None,
        quota_fd: int = -1,
    ):
        self.root = Root(root, native=native)
        self.files = FileStore(
            self.root,
            Quota(self.root, quota, quota_fd),
            uploads=uploads,
            overwrite=overwrite,
            read_only=read_only,
            max_size=max_size,
            disk_floor=disk_floor,
        )
        self.inline_active = inline_active
        self.fast_path = FastPath(self.root, inline_active)
        self._digests = digests.DigestCache()

    def close(self) -> None:
        """Close the directory; no request can be handled afterwards."""
        self.root.close()
        self.files.quota.close()

    async def handle(self, request: Request) -> Response:
        """Return the response, errors included. The caller closes its body.

        Raises ConnectionError if reading the request's body does: there is no client to respond to.
        """
        try:
            response = await self._dispatch(request)
        except HTTPException as error:
            if error.status == 500:
                log.error("%s %s: %s", request.method, to_url(request.path), error.detail)
            response = error_response(request, error)
        except ConnectionError:
            raise
        except OSError as error:
            log.exception("%s %s failed", request.method, to_url(request.path))
            response = error_response(request, to_http_exception(error))
        if request.method == "HEAD" and isinstance(response.body, bytes) and response.body:
            if not any(name.lower() == "content-length" for name, _ in response.headers):
                response.headers.append(("Content-Length", str(len(response.body))))
            response.body = b""
        response.headers.append(("X-Content-Type-Options", "nosniff"))
        return response

    def _dispatch(self, request: Request) -> Awaitable[Response]:
        """Call the coroutine function that handles the request's method."""
        path, method = request.path, request.method
        if is_reserved(path):
            raise HTTPException(404, 'There is no such resource ("/-/" is reserved).')
        match method:
            case "GET" | "HEAD":
                return self._list(request) if path.endswith("/") else self._get(request)
            case "PUT":
                return self._put(request)
            case "POST":
                return self._post(request)
            case "DELETE":
                return self._delete(request)
            case "MOVE":
                return self._move(request)
            case "MKCOL":
                return self._make_directory(request)
            case "OPTIONS":
                return self._options()
        raise HTTPException(
            405, f"{method} is not supported.", headers=[("Allow", self.allowed_methods)]
        )

    @property
    def allowed_methods(self) -> str:
        """The methods of files and directories."""
        return METHODS if self.files.writable else READ_METHODS

    async def _options(self) -> Response:
        """The methods, whether the path exists or not (RFC 9110, 9.3.7)."""
        return Response(204, [("Allow", self.allowed_methods)])

    def _require_writable(self, request: Request) -> None:
        """Raise HTTPException 403 unless this request may change files."""
        self.files.require_writable()
        require_same_site(request.headers)

    # Reading.

    async def _get(self, request: Request) -> Response:
        """A file; for a directory, a redirect to its path with "/"."""
        fd = self.root.open_cached(request.path)
        if fd is None:
            fd = await run_in_thread(self.root.open, request.path, os.O_RDONLY)
        try:
            is_directory = stat.S_ISDIR(os.fstat(fd).st_mode)
        except OSError:
            os.close(fd)
            raise
        if is_directory:
            os.close(fd)
            query = "?" + urlencode(request.query, quote_via=quote) if request.query else ""
            return Response(308, [("Location", to_url(request.path) + "/" + query)])
        return await file_response(
            self.root, request, fd, inline_active=self.inline_active, known_digests=self._digests
        )

    async def _list(self, request: Request) -> Response:
        """A directory as HTML or JSON, by Accept, or as an archive: ``?archive=tar`` or ``zip``."""
        if "archive" in request.query:
            return await self._archive(request)
        weights = content_negotiation.parse_accept(request.headers.get("accept"))
        as_json = weights.get("application/json", 0.0) > weights.get("text/html", 0.0)
        headers = [("Vary", "Accept"), ("Cache-Control", "no-cache")]
        body: bytes = await run_in_thread(self._render_listing, request.path, as_json)
        if as_json:
            return Response(200, [("Content-Type", "application/json"), *headers], body)
        return Response(200, [*HTML_FIELDS, *headers], body)

    def _render_listing(self, path: str, as_json: bool) -> bytes:
        data = listing.listing(self.root, path, self.files.writable)
        if as_json:
            return listing.as_json(data)
        from noria.fileserver.web.page import page  # needs jinja2

        return page(data, uploads=self.files.writable)

    async def _archive(self, request: Request) -> Response:
        kind = request.query["archive"]
        if kind not in ("tar", "zip"):
            raise HTTPException(400, f"archive={kind[:20]} is not supported: use tar or zip.")
        name = (split_path(request.path) or [os.path.basename(self.root.path)])[-1]
        if not is_valid_name(name):  # of the served directory itself
            name = "files"
        headers = [
            ("Content-Type", "application/x-tar" if kind == "tar" else "application/zip"),
            ("Content-Disposition", media_types.attachment_disposition(f"{name}.{kind}")),
            ("Cache-Control", "no-store"),
        ]
        top: int = await run_in_thread(self.root.open, request.path, os.O_RDONLY | os.O_DIRECTORY)
        if request.method == "HEAD":
            os.close(top)
            return Response(200, headers)
        make = archive.tar_blocks if kind == "tar" else archive.zip_blocks
        return Response(200, headers, ThreadedIterator(make(self.root, top, name), top))

    # Changing.

    async def _put(self, request: Request) -> Response:
        """Store the body: 201, or 204 if it replaced a file."""
        self._require_writable(request)
        if "content-range" in request.headers:
            raise HTTPException(
                400, "PUT with Content-Range is not supported; resume with tus at /-/uploads/."
            )
        coding = request.headers.get("content-encoding", "identity")
        if coding.strip().lower() != "identity":
            raise HTTPException(415, "Content-Encoding is not supported: send the file itself.")
        new, tag = await self.files.store(
            request.path,
            request.body,
            if_match=request.headers.get("if-match"),
            if_none_match=request.headers.get("if-none-match"),
            expect_size=request.length,
            sha256=digests.request_sha256(request.headers),
            user=request.user,
        )
        headers = [("ETag", tag)]
        if new:
            headers.append(("Location", to_url(request.path)))
        return Response(201 if new else 204, headers)

    async def _post(self, request: Request) -> Response:
        """Store the files of a form in the directory, each under its own name.

        If-Match and If-None-Match apply to each of them.
        """
        self._require_writable(request)
        if not request.path.endswith("/"):
            raise HTTPException(
                405, "Send a form to a directory (a path that ends in \"/\").",
                headers=[("Allow", METHODS)],
            )  # fmt: skip
        try:
            stored = await self._store_form(request)
        except HTTPException:
            if is_browser_form(request):
                # Browsers read the response only after they have sent the whole body.
                async for _chunk in request.body:
                    pass
            raise
        if is_browser_form(request):
            return Response(303, [("Location", to_url(request.path))])
        body = listing.as_json({"stored": stored})
        return Response(201, [("Content-Type", "application/json")], body)

    async def _store_form(self, request: Request) -> list[dict[str, object]]:
        form = MultipartForm(request.body, parse_boundary(request.headers.get("content-type")))
        stored: list[dict[str, object]] = []
        async for part in form.parts():
            name = part.disposition_parameter("filename")
            if not name:  # another field, or no file was chosen
                continue
            check_name(name)
            try:
                new, tag = await self.files.store(
                    request.path + name,
                    part,
                    if_match=request.headers.get("if-match"),
                    if_none_match=request.headers.get("if-none-match"),
                    user=request.user,
                )
            except HTTPException as error:
                names = ", ".join(str(each["name"]) for each in stored)
                before = f" Files stored before the error: {names}." if stored else ""
                raise HTTPException(error.status, f"{name}: {error.detail}{before}") from None
            stored.append({"name": name, "created": new, "etag": tag})
        if not stored:
            raise HTTPException(400, "The form has no file.")
        return stored

    async def _delete(self, request: Request) -> Response:
        """Remove a file or an empty directory."""
        self._require_writable(request)
        await self.files.remove(request.path, request.headers, user=request.user)
        return Response(204)

    async def _move(self, request: Request) -> Response:
        """Rename to the path in Destination, on this server (RFC 4918, 9.9)."""
        self._require_writable(request)
        target = destination(request.headers)
        new = await self.files.move(
            request.path,
            target,
            request.headers,
            overwrite=request.headers.get("overwrite").strip().upper() == "T",
            user=request.user,
        )
        return Response(201, [("Location", to_url(target))]) if new else Response(204)

    async def _make_directory(self, request: Request) -> Response:
        """Create a directory (MKCOL: RFC 4918, 9.3)."""
        self._require_writable(request)
        if request.length:
            raise HTTPException(415, "MKCOL does not take a body.")
        await self.files.make_directory(request.path, user=request.user)
        return Response(201, [("Location", to_url(request.path.rstrip("/")) + "/")])
