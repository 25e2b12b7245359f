"""What a hostile client, a hostile page or a hostile name might make of the server."""

from __future__ import annotations

import asyncio
import io
import re
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("httptools")

import noria
from noria.fileserver.app import FileServerApp, make_service
from noria.fileserver.options import ServerOptions
from noria.fileserver.service import FileService
from noria.fileserver.web.assets import asset
from noria.http.head import format_head, parse_target
from noria.http.media_types import attachment_disposition
from noria.http.messages import Headers, HTTPException, Request
from noria.http.multipart import FormPart, MultipartForm
from noria.http.ranges import parse_range
from support.fileservice import ask, serving

SECONDS = 1.0  # of CPU time; linear work takes a thousandth of it, quadratic work more


def raw(directory: Path, *requests: bytes) -> list[bytes]:
    """Return the response of a server to each request, each on a new connection."""

    async def main() -> list[bytes]:
        options = ServerOptions(directory=str(directory), upload=True)
        server = FileServerApp(make_service(options), options)
        loop = asyncio.get_running_loop()
        listening = await loop.create_server(server.protocol_factory, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        answers = []
        for request in requests:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request)
            writer.write_eof()
            answers.append(await reader.read())
            writer.close()
        listening.close()
        await server.state.drain(0)
        assert server.tus is not None
        server.tus.stop()
        server.service.close()
        return answers

    return noria.run(main())


def location(answer: bytes) -> str:
    found = re.search(rb"\r\nLocation: ([^\r]*)\r\n", answer)
    return found[1].decode() if found else ""


HOSTILE_PATHS = [
    b"//evil.example/",
    b"//evil.example/..",
    b"//evil.example/%2e%2e",
    b"/%2f/evil.example/d",
    b"/%2fevil.example",
    b"/\\evil.example/d",
    b"/%5cevil.example/d",
    b"/.//evil.example/",
    b"/d%0d%0aSet-Cookie:%20a=b",
    b"/d%0aSet-Cookie:%20a=b",
    b"/d\xe5\x98\x8a\xe5\x98\x8dSet-Cookie:a",
    b"http://evil.example//evil.example/d",
    b"https:////evil.example/d",
]


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"PUT", b"POST", b"MKCOL", b"DELETE"])
def test_no_redirect_leads_elsewhere_and_no_field_is_split(tmp_path: Path, method: bytes) -> None:
    (tmp_path / "evil.example" / "d").mkdir(parents=True)
    (tmp_path / "d").mkdir()
    fields = (
        b"Host: a\r\nAccept: text/html\r\nContent-Length: 0\r\n"
        b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
    )
    requests = [b"%b %b HTTP/1.1\r\n%b" % (method, path, fields) for path in HOSTILE_PATHS]
    for request, answer in zip(requests, raw(tmp_path, *requests), strict=True):
        assert re.match(rb"HTTP/1\.1 [234]\d\d ", answer), request
        assert not location(answer).startswith(("//", "/\\", "http")), request
        assert b"\r\nSet-Cookie" not in answer, request
        assert b"\nSet-Cookie" not in answer, request
        assert b"http://evil" not in answer, request
        assert b'href="//' not in answer, request


def test_the_host_is_not_repeated_in_the_response(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    host = b"Host: evil.example\r\n\r\n"
    for answer in raw(
        tmp_path,
        b"GET /d HTTP/1.1\r\n" + host,
        b"GET /d/ HTTP/1.1\r\n" + host,
        b"GET /none HTTP/1.1\r\n" + host,
        b"MKCOL /new HTTP/1.1\r\n" + host,
    ):
        assert b"evil" not in answer
    assert location(raw(tmp_path, b"GET /d?a=b%0d%0ac HTTP/1.1\r\n" + host)[0]) == "/d/?a=b%0D%0Ac"


NAMES = [
    "<img src=x onerror=alert(1)>.txt",
    '"quoted"; filename=x',
    "a'b&c=d;e",
    "é ☃ %22.html",
    "-",
]


def test_names_stay_names(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for name in NAMES:
        (tmp_path / "d" / name).write_bytes(b"1")
    for hidden in (
        "line\nbreak",
        "back\\slash",
        "\x1b[31m",
        b"\xff".decode(errors="surrogateescape"),
    ):
        (tmp_path / "d" / hidden).write_bytes(b"1")

    async def main(service: FileService) -> None:
        page = (await ask(service, "GET", "/d/", accept="text/html")).body.decode()
        assert "<img src=x" not in page
        assert "&lt;img src=x onerror=alert(1)&gt;.txt" in page
        assert 'href="javascript:' not in page
        for name in NAMES:
            answer = await ask(service, "GET", "/d/" + name, query={"download": ""})
            disposition = answer.headers.get("content-disposition")
            assert re.fullmatch(
                r"attachment; filename=\"[ -!#-\[\]-~]*\"(; filename\*=UTF-8''[!-~]*)?", disposition
            )
        for kind in ("tar", "zip"):
            body = (await ask(service, "GET", "/d/", query={"archive": kind})).body
            if kind == "tar":
                with tarfile.open(fileobj=io.BytesIO(body)) as archive:
                    found = archive.getnames()
            else:
                with zipfile.ZipFile(io.BytesIO(body)) as packed:
                    found = [each.rstrip("/") for each in packed.namelist()]
            assert sorted(found) == sorted(["d", *(f"d/{name}" for name in NAMES)])

    serving(main, tmp_path)
    for name in ("a\r\nb", 'a"b', "a\\b", "\0"):
        assert (
            format_head(200, [("Content-Disposition", attachment_disposition(name))]).count(b"\r\n")
            == 3
        )


def test_an_archive_of_a_directory_with_an_unusual_name(tmp_path: Path) -> None:
    odd = tmp_path / "a\\..\\b\nc"
    odd.mkdir()
    (odd / "file").write_bytes(b"1")

    async def main(service: FileService) -> None:
        body = (await ask(service, "GET", "/", query={"archive": "tar"})).body
        with tarfile.open(fileobj=io.BytesIO(body)) as archive:
            assert archive.getnames() == ["files", "files/file"]

    serving(main, odd)


def test_ten_thousand_ranges_are_the_whole_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789" * 10)

    async def main(service: FileService) -> None:
        many = "bytes=" + ",".join(f"{number % 100}-" for number in range(10_000))
        answer = await ask(service, "GET", "/file", range=many)
        assert (answer.status, len(answer.body)) == (200, 100)
        answer = await ask(service, "GET", "/file", range="bytes=0-," * 20)
        assert (answer.status, len(answer.body)) == (200, 100)

    serving(main, tmp_path)


def test_long_fields_take_no_longer_than_their_length() -> None:
    """A pattern that restarts at each character would take quadratic time."""
    spaces = "a" + " " * 16_000 + "b"
    began = time.process_time()
    request = Request("GET", "/-/assets/page.css", Headers([("If-None-Match", spaces)]))
    assert asset(request, "page.css").status == 200
    request = Request("GET", "/-/assets/page.css", Headers([("If-None-Match", "*")]))
    assert asset(request, "page.css").status == 304

    async def nothing():  # type: ignore[no-untyped-def]
        yield b""

    form = MultipartForm(nothing(), b"b")
    for value in (';a="' * 2000, "; " * 4000, ";a=b" * 2000, ';a="\\' * 1600, " " * 8000):
        part = FormPart(Headers([("Content-Disposition", "form-data" + value)]), form)
        assert part.disposition_parameter("filename") is None
    for value in ("bytes=" + " " * 16_000, "bytes=" + "0" * 16_000, "bytes=" + "," * 16_000):
        assert parse_range(value, 10) is None
    assert time.process_time() - began < SECONDS


@pytest.mark.parametrize(
    "raw_target",
    [
        b"http://",
        b"http:///d",
        b"http://?a",
        b"http://u@h/",
        b"ftp://h/",
        b"http:/d",
        b"http:\\\\h/",
    ],
)
def test_absolute_targets_that_are_none(raw_target: bytes) -> None:
    with pytest.raises(HTTPException) as problem:
        parse_target(raw_target)
    assert problem.value.status == 400


@pytest.mark.parametrize(
    ("raw_target", "found"),
    [
        (b"http://h?a=b", ("/", {"a": "b"})),
        (b"http://h:80//x/?a", ("//x/", {"a": ""})),
        (b"https://[::1]/x", ("/x", {})),
    ],
)
def test_absolute_targets(raw_target: bytes, found: tuple[str, dict[str, str]]) -> None:
    assert parse_target(raw_target) == found


BODY = b'--b\r\nContent-Disposition: form-data; name="f"; filename="x"\r\n\r\n1\r\n--b--\r\n'


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, 201),  # from a program
        ({"origin": "http://here:1"}, 201),
        ({"origin": "HTTP://HERE:1"}, 201),
        ({"origin": "http://here:1", "sec_fetch_site": "same-origin"}, 201),
        ({"sec_fetch_site": "none"}, 201),  # from the user, for example by the address bar
        ({"origin": "http://here:2"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "null", "host": ""}, 403),
        ({"origin": "http://[", "host": ""}, 403),
        ({"origin": "http://["}, 403),
        ({"origin": "file://"}, 403),
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"sec_fetch_site": "same-site", "origin": "http://here:1"}, 403),
    ],
)
def test_a_page_of_another_site_changes_nothing(
    tmp_path: Path, fields: dict[str, str], status: int
) -> None:
    async def main(service: FileService) -> None:
        given = {
            "host": "here:1",
            "content_type": "multipart/form-data; boundary=b",
            **fields,
        }
        assert (await ask(service, "POST", "/", BODY, **given)).status == status

    serving(main, tmp_path, uploads=True)
    assert (tmp_path / "x").exists() is (status == 201)


def test_a_part_of_a_concatenation_that_is_no_url(tmp_path: Path) -> None:
    request = (
        b"POST /-/uploads/ HTTP/1.1\r\nHost: a\r\nTus-Resumable: 1.0.0\r\n"
        b"Upload-Concat: final;http://[\r\nUpload-Metadata: filename bmV3\r\n\r\n"
    )
    assert raw(tmp_path, request)[0].startswith(b"HTTP/1.1 400 ")


def test_no_answer_may_be_taken_for_another_type(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1")
    tus = b"Tus-Resumable: 1.0.0\r\nUpload-Length: 1\r\nUpload-Metadata: filename bmV3\r\n"
    for request in (
        b"GET / HTTP/1.1\r\n",
        b"GET /file HTTP/1.1\r\n",
        b"GET /none HTTP/1.1\r\n",
        b"GET /../ HTTP/1.1\r\n",
        b"GET /% HTTP/1.1\r\n",
        b"BREW / HTTP/1.1\r\n",
        b"GET /-/assets/page.css HTTP/1.1\r\n",
        b"GET /-/assets/page.css HTTP/1.1\r\nIf-None-Match: *\r\n",
        b"GET /-/none HTTP/1.1\r\n",
        b"OPTIONS /-/uploads/ HTTP/1.1\r\n",
        b"POST /-/uploads/ HTTP/1.1\r\n" + tus,
        b"POST /-/uploads/ HTTP/1.1\r\n",
    ):
        (answer,) = raw(tmp_path, request + b"Host: a\r\n\r\n")
        assert answer.count(b"\r\nX-Content-Type-Options: nosniff\r\n") == 1, request


ODD_NAMES = [
    b"a" * 256,
    b"a" * 5000,
    b"a/" * 2000,
    b"a%00b",
    b"%00",
    b"%ff",
    b"%C3%A9" * 128,
    b"%F0%9F%98%80" * 64,
    b"%0a",
    b"..",
    b"../page.css",
    b"%2e%2e/assets/page.css",
    b".",
    b"loop",
    b"loop/x",
    b"file/",
    b"file/x",
    b".noria-" + b"a" * 249,
]


@pytest.mark.parametrize(
    "method", [b"GET", b"HEAD", b"PUT", b"POST", b"PATCH", b"DELETE", b"MKCOL"]
)
def test_names_that_no_file_can_have(tmp_path: Path, method: bytes) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_bytes(b"1")
    fields = b"Host: a\r\nConnection: close\r\nContent-Length: 0\r\nTus-Resumable: 1.0.0\r\n\r\n"
    places = (b"/", b"/-/", b"/-/assets/", b"/-/uploads/", b"/-/events/", b"/-/events?path=/")
    requests = [
        b"%b %b%b HTTP/1.1\r\n%b" % (method, place, name, fields)
        for place in places
        for name in ODD_NAMES
    ]
    for request, answer in zip(requests, raw(tmp_path, *requests), strict=True):
        assert re.match(rb"HTTP/1\.1 (4\d\d|20[14]) ", answer), (request[:80], answer)
        if request.startswith(b"GET /-/assets/"):
            assert answer.startswith((b"HTTP/1.1 404 ", b"HTTP/1.1 400 ")), request[:80]


def test_the_names_of_assets(tmp_path: Path) -> None:
    for name in ("a" * 256, "", ".", "..", "../assets.py", "page.css\0", "page.css/", "/page.css"):
        with pytest.raises(HTTPException) as problem:
            asset(Request("GET", "/-/assets/" + name), name)
        assert problem.value.status == 404
    assert asset(Request("GET", "/-/assets/page.css"), "page.css").status == 200
