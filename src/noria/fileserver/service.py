"""The file service: a request in, a response out. No socket, no parser, no event loop of its own.

Its commands are methods, found by name from the request. All work on the disk is done in threads
of the loop's default executor, but for opening and reading what the kernel has in memory.
"""

from __future__ import annotations

import builtins
import logging
import os
import stat
from collections.abc import AsyncIterable, Callable
from urllib.parse import quote, unquote, urlencode, urlsplit

from noria.fileserver import archive, file_operations, listing
from noria.fileserver.fast_path import Quick
from noria.fileserver.file_response import answer_file
from noria.fileserver.quota import Quota, check_disk
from noria.fileserver.request_paths import check, directory_of, names, require_depth, url, usable
from noria.fileserver.root import Root, to_http_exception
from noria.fileserver.storage import admitted, sweep
from noria.fileserver.upload import Put
from noria.http import content_negotiation, digests, media_types
from noria.http.conditional import require_preconditions
from noria.http.messages import READ_METHODS, Headers, HTTPException, Request, Response
from noria.http.multipart import MultipartForm, parse_boundary
from noria.http.worker_threads import ThreadedIterator, run_in_thread

log = logging.getLogger("noria")

DISK_FLOOR = 256 * 1024 * 1024  # bytes of the disk that are kept free
_POLICY = "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'"
HTML = (
    ("Content-Type", "text/html; charset=utf-8"),
    ("Content-Security-Policy", _POLICY + "; form-action 'self'; frame-ancestors 'none'"),
)
METHODS = f"{READ_METHODS}, PUT, POST, DELETE, MOVE, MKCOL"


class FileService:
    """Serves the directory `root`.

    `uploads`: files may be stored, deleted and moved, directories made. `overwrite`: a PUT may
    replace a file without naming its ETag, and a MOVE may with ``Overwrite: T``. `read_only`
    forbids all changes, whatever else is said. `max_size`: bytes of one file; `quota`: of all
    files together; `disk_floor`: bytes of the disk that are kept free. `inline_active`: browsers
    may show HTML, SVG and the like, and so run what is in it, in place of saving it. `native`: as
    of Root; `shared`: as of Quota. Raises OSError if `root` is no directory that can be opened.
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
        shared: int = -1,
    ):
        self.root = Root(root, native=native)
        self.uploads = uploads
        self.overwrite = overwrite
        self.read_only = read_only
        self.max_size = max_size
        self.disk_floor = disk_floor
        self.inline_active = inline_active
        self.quota = Quota(self.root, quota, shared)
        self._digests = digests.DigestCache()
        self.quick = Quick(self.root, inline_active)
        self.on_change: list[Callable[[str], None]] = []  # told a directory's path in the URL

    def close(self) -> None:
        """Gives the directory back; requests are answered no more."""
        self.root.close()
        self.quota.close()

    # What a request comes to.

    async def handle(self, request: Request) -> Response:
        """The response, problems included; whoever sends it closes its body."""
        try:
            response: Response = await getattr(self, self.command(request))(request)
        except HTTPException as error:
            if error.status == 500:
                log.error("%s %s: %s", request.method, url(request.path), error.detail)
            response = refused(request, error)
        except ConnectionError:  # of the body: there is nobody left to answer
            raise
        except OSError as error:
            log.exception("%s %s failed", request.method, url(request.path))
            response = refused(request, to_http_exception(error))
        if request.method == "HEAD" and isinstance(response.body, bytes) and response.body:
            if not any(name.lower() == "content-length" for name, _ in response.headers):
                response.headers.append(("Content-Length", str(len(response.body))))
            response.body = b""
        response.headers.append(("X-Content-Type-Options", "nosniff"))
        return response

    def command(self, request: Request) -> str:
        """The name of the method that answers the request. Raises HTTPException 404 or 405."""
        path, method = request.path, request.method
        if path == "/-" or path.startswith("/-/"):
            raise HTTPException(404, 'The server has nothing of that name ("/-/" is its own).')
        if method in ("GET", "HEAD"):
            return "list" if path.endswith("/") else "get"
        commands = {"PUT": "put", "DELETE": "delete", "MOVE": "move", "MKCOL": "make_directory"}
        if method in commands:
            return commands[method]
        if method in ("POST", "OPTIONS"):
            return method.lower()
        raise HTTPException(405, f"{method} is not served here.", headers=[("Allow", self.allowed)])

    def changed(self, path: str) -> None:
        """Tells the hooks that the directory `path` of the URL has changed."""
        for told in self.on_change:
            told(path)

    @property
    def allowed(self) -> str:
        """The methods of files and directories."""
        return METHODS if self.writable else READ_METHODS

    async def options(self, request: Request) -> Response:
        """Which methods there are, whether anything is at the path or not (RFC 9110, 9.3.7)."""
        return Response(204, [("Allow", self.allowed)])

    # Down.

    async def get(self, request: Request) -> Response:
        """A file, or what its headers ask of it; a directory is redirected to its "/"."""
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
            return Response(308, [("Location", url(request.path) + "/" + query)])
        return await answer_file(
            self.root, request, fd, inline_active=self.inline_active, known=self._digests
        )

    async def list(self, request: Request) -> Response:
        """A directory: as HTML, as JSON by Accept, or whole with ``?archive=tar`` or ``zip``."""
        if "archive" in request.query:
            return await self._archive(request)
        accepted = content_negotiation.parse_accept(request.headers.get("accept"))
        as_json = accepted.get("application/json", 0.0) > accepted.get("text/html", 0.0)
        headers = [("Vary", "Accept"), ("Cache-Control", "no-cache")]
        made: bytes = await run_in_thread(self._listed, request.path, as_json)
        if as_json:
            return Response(200, [("Content-Type", "application/json"), *headers], made)
        return Response(200, [*HTML, *headers], made)

    def _listed(self, path: str, as_json: bool) -> bytes:
        data = listing.listing(self.root, path, self.writable)
        if as_json:
            return listing.as_json(data)
        from noria.fileserver.web.page import page  # jinja2, which nothing else here needs

        return page(data, uploads=self.writable)

    async def _archive(self, request: Request) -> Response:
        kind = request.query["archive"]
        if kind not in ("tar", "zip"):
            raise HTTPException(400, f"archive={kind[:20]} is unknown: tar and zip are there.")
        name = (names(request.path) or [os.path.basename(self.root.path)])[-1]
        if not usable(name):  # of the served directory itself: no request names that
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
        make = archive.tar if kind == "tar" else archive.zipped
        return Response(200, headers, ThreadedIterator(make(self.root, top, name), top))

    # Up.

    @property
    def writable(self) -> bool:
        """Whether anything may be changed."""
        return self.uploads and not self.read_only

    def require_writable(self, headers: Headers | None = None) -> None:
        """Raises HTTPException 403 if not, or if a page of another site sent the request."""
        if self.read_only:
            raise HTTPException(
                403, "The server was started with --read-only: nothing can be changed."
            )
        if not self.uploads:
            raise HTTPException(403, "Nothing can be changed here unless the server has --upload.")
        if headers is not None:
            require_same_site(headers)

    def foresee(self, path: str, *, if_match: str = "", if_none_match: str = "") -> None:
        """In a thread: raises the HTTPException, 409 or 412, that `store` would now."""
        conditions = conditions_of(if_match, if_none_match)
        try:
            directory = self.root.open(directory_of(path), os.O_RDONLY | os.O_DIRECTORY)
        except HTTPException as error:
            if error.status != 404:
                raise
            require_preconditions(conditions, None)
            return
        try:
            admitted(directory, names(path)[-1], conditions, self.overwrite)
        except OSError as error:
            raise to_http_exception(error) from None
        finally:
            os.close(directory)

    async def room(self, path: str, size: int) -> None:
        """Raise HTTPException 413 or 507 if a file of `size` bytes does not fit at `path`."""
        if self.max_size is not None and size > self.max_size:
            raise HTTPException(413, f"The file is too large: {self.max_size} bytes are the most.")
        await run_in_thread(self._room, path, size)

    def _room(self, path: str, size: int) -> None:
        with self.root.parent(path) as (directory, _):
            check_disk(directory, size, self.disk_floor)
        self.quota.check(size)

    async def store(
        self,
        path: str,
        chunks: AsyncIterable[bytes],
        *,
        if_match: str = "",
        if_none_match: str = "",
        expect_size: int | None = None,
        sha256: str | bytes | None = None,
        parents: bool = False,
    ) -> tuple[bool, str]:
        """The one way a file gets in: (whether it is new, its entity tag), once it is durable.

        It replaces a file only if the service may overwrite or `if_match` names that file's tag,
        and never if `if_none_match` does: before the first byte, and again at the end.
        `expect_size` in bytes; `sha256` as digest or in hexadecimal; `parents`: missing
        directories above it are made. Cancelled or refused, it leaves nothing.
        Raises HTTPException.
        """
        self.require_writable()
        require_file(path)
        if parents:
            await self._make_parents(path)
        if expect_size is not None:
            await self.room(path, expect_size)
        put = Put(
            self.root,
            path,
            self.quota,
            max_size=self.max_size,
            floor=self.disk_floor,
            sha256=digests.require_hex_sha256(sha256) if isinstance(sha256, str) else sha256,
        )
        new, tag = await put.run(
            chunks,
            expect_size,
            conditions_of(if_match, if_none_match),
            self.overwrite,
        )
        self.changed(directory_of(path))
        return new, tag

    async def adopt(
        self,
        source: str,
        path: str,
        *,
        if_match: str = "",
        if_none_match: str = "",
        parents: bool = False,
    ) -> tuple[bool, str]:
        """As `store`, of a file that is beneath the root already: it is synced and renamed.

        `source` is relative to the root and may be hidden; no link in it is followed. Its bytes
        count for the quota before and after.
        """
        self.require_writable()
        require_file(path)
        if parents:
            await self._make_parents(path)
        conditions = conditions_of(if_match, if_none_match)
        new, tag, gone = await run_in_thread(
            Put.adopt, self.root, source, path, conditions, self.overwrite
        )
        self.quota.end(0, gone)
        self.changed(directory_of(path))
        return new, tag

    async def _make_parents(self, path: str) -> None:
        for made in await run_in_thread(file_operations.make_parents, self.root, path):
            self.changed(directory_of(made))

    async def sweep(self, ended: Callable[[], bool] = bool) -> int:
        """Removes what uploads of a killed process left behind, and says how many there were.

        It walks through all directories, in a thread, and stops when `ended()` says so.
        """
        count: int = await run_in_thread(sweep, self.root, ended)
        return count

    async def put(self, request: Request) -> Response:
        """Stores the body: 201, or 204 if it took the place of a file."""
        self.require_writable(request.headers)
        if "content-range" in request.headers:
            raise HTTPException(
                400, "A part of a file cannot be PUT; resume by tus at /-/uploads/."
            )
        coding = request.headers.get("content-encoding", "identity")
        if coding.strip().lower() != "identity":
            raise HTTPException(415, "Send the file itself: its Content-Encoding is not undone.")
        new, tag = await self.store(
            request.path,
            request.body,
            if_match=request.headers.get("if-match"),
            if_none_match=request.headers.get("if-none-match"),
            expect_size=request.length,
            sha256=digests.request_sha256(request.headers),
        )
        headers = [("ETag", tag)]
        if new:
            headers.append(("Location", url(request.path)))
        return Response(201 if new else 204, headers)

    async def post(self, request: Request) -> Response:
        """A form's files, each stored in the directory under its own name.

        If-Match and If-None-Match hold for each of them.
        """
        self.require_writable(request.headers)
        if not request.path.endswith("/"):
            raise HTTPException(405, "A form is sent to a directory.", headers=[("Allow", METHODS)])
        try:
            stored = await self._stored(request)
        except HTTPException:
            if from_page(request):
                async for _rest in request.body:
                    pass  # browsers look at an answer once they have sent everything
            raise
        if from_page(request):
            return Response(303, [("Location", url(request.path))])
        made = listing.as_json({"stored": stored})
        return Response(201, [("Content-Type", "application/json")], made)

    async def _stored(self, request: Request) -> builtins.list[dict[str, object]]:
        form = MultipartForm(request.body, parse_boundary(request.headers.get("content-type")))
        stored: builtins.list[dict[str, object]] = []
        async for part in form.parts():
            name = part.disposition_parameter("filename")
            if not name:  # another field, or no file was chosen
                continue
            check(name)
            try:
                new, tag = await self.store(
                    request.path + name,
                    part,
                    if_match=request.headers.get("if-match"),
                    if_none_match=request.headers.get("if-none-match"),
                )
            except HTTPException as error:
                before = f" Stored before it: {', '.join(str(each['name']) for each in stored)}."
                raise HTTPException(
                    error.status, f"{name}: {error.detail}{before if stored else ''}"
                ) from None
            stored.append({"name": name, "created": new, "etag": tag})
        if not stored:
            raise HTTPException(400, "There is no file in the form.")
        return stored

    async def delete(self, request: Request) -> Response:
        """Removes a file or an empty directory."""
        self.require_writable(request.headers)
        freed: int = await run_in_thread(
            file_operations.remove, self.root, request.path, request.headers
        )
        self.quota.end(0, freed)
        self.changed(directory_of(request.path))
        return Response(204)

    async def move(self, request: Request) -> Response:
        """Renames to the header Destination: a path, or a URL of this server (RFC 4918, 9.9)."""
        self.require_writable(request.headers)
        target = destination(request.headers)
        asked = request.headers.get("overwrite").strip().upper() == "T"
        overwrite = asked and self.overwrite
        new: bool = await run_in_thread(
            file_operations.move, self.root, request.path, target, request.headers, overwrite
        )
        self.changed(directory_of(request.path))
        if directory_of(target) != directory_of(request.path):
            self.changed(directory_of(target))
        return Response(201, [("Location", url(target))]) if new else Response(204)

    async def make_directory(self, request: Request) -> Response:
        """Makes a directory (MKCOL)."""
        self.require_writable(request.headers)
        if request.length:
            raise HTTPException(415, "MKCOL takes no body.")
        await run_in_thread(file_operations.make_directory, self.root, request.path)
        self.changed(directory_of(request.path))
        return Response(201, [("Location", url(request.path.rstrip("/")) + "/")])


def from_page(request: Request) -> bool:
    """Whether a browser sent a form, and shows what comes back."""
    return request.method == "POST" and "text/html" in content_negotiation.parse_accept(
        request.headers.get("accept")
    )


def prefers_page(request: Request) -> bool:
    """Whether what comes back of a form, or of a link that was followed, is shown as a page."""
    if request.method not in ("GET", "HEAD"):
        return from_page(request)
    weights = content_negotiation.parse_accept(request.headers.get("accept"))
    others = max(weights.get("application/json", 0.0), weights.get("text/plain", 0.0))
    return weights.get("text/html", 0.0) > 0 and weights["text/html"] >= others


def refused(request: Request, error: HTTPException) -> Response:
    """The response that says what is wrong: a page with a way back for who looks at pages."""
    headers = list(error.headers)
    if request.method in ("GET", "HEAD"):
        headers.append(("Vary", "Accept"))
    if prefers_page(request):
        from noria.fileserver.web.page import missed, trouble

        if from_page(request):
            made = trouble(error.detail)
        else:
            made = missed(error.status, error.detail, above(request.path))
        return Response(error.status, [*HTML, *headers], made)
    headers.insert(0, ("Content-Type", "text/plain; charset=utf-8"))
    return Response(error.status, headers, error.detail.encode(errors="replace") + b"\n")


def above(path: str) -> str:
    """The directory that a path is in; "/" for one that no request may use."""
    try:
        found = names(path)
    except HTTPException:
        return "/"
    return "/" if found[:1] == ["-"] else directory_of(path)


def require_file(path: str) -> None:
    """Raises HTTPException if no file can have this path."""
    require_depth(path)
    if path.endswith("/"):
        raise HTTPException(409, 'A path that ends in "/" is a directory\'s: make that by MKCOL.')
    if path == "/-" or path.startswith("/-/"):
        raise HTTPException(403, '"/-/" is the server\'s own.')


def require_same_site(headers: Headers) -> None:
    """Raises HTTPException 403 for what a browser sent from a page of another site."""
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site:  # the browser's own word, right behind a proxy that changes Host too
        other = site not in ("same-origin", "none")
    else:
        other = origin != "" and _host(origin) != (headers.get("host").lower() or None)
    if other:
        raise HTTPException(403, "A page of another site may not change anything here.")


def _host(url_: str) -> str:
    try:
        return urlsplit(url_).netloc.lower()
    except ValueError:
        return ""


def conditions_of(if_match: str, if_none_match: str = "") -> Headers:
    fields = [("if-match", if_match), ("if-none-match", if_none_match)]
    return Headers((name, value) for name, value in fields if value)


def destination(headers: Headers) -> str:
    """The decoded path of the header Destination. Raises HTTPException."""
    value = headers.get("destination").strip()
    if not value:
        raise HTTPException(400, "MOVE needs the new path in the header Destination.")
    try:
        parts = urlsplit(value)
        path = unquote(parts.path, errors="strict")
    except ValueError:
        raise HTTPException(400, "Destination is no valid URL.") from None
    if parts.netloc and parts.netloc.lower() != headers.get("host").lower():
        raise HTTPException(502, "Destination is on another server.")
    if parts.query or parts.fragment:
        raise HTTPException(400, 'Destination is a plain path: write "?" as %3F and "#" as %23.')
    require_target(path)
    return path


def require_target(path: str) -> None:
    """Raises HTTPException if nothing can be moved to this path."""
    names(path)
    if path == "/-" or path.startswith("/-/"):
        raise HTTPException(403, '"/-/" is the server\'s own.')
