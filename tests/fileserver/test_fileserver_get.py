"""Downloads: conditions, ranges, compressed siblings, media types; listings and archives."""

from __future__ import annotations

import base64
import email
import email.policy
import errno
import gzip
import hashlib
import io
import json
import os
import random
import tarfile
import zipfile
from pathlib import Path

import pytest

from noria.fileserver import archive
from noria.fileserver.request_paths import check_name
from noria.fileserver.root import Root
from noria.fileserver.service import FileService
from noria.http import media_types, ranges
from noria.http.messages import FileBody, HTTPException
from support.fileservice import Answer, ask, serving

ALPHABET = b"abcdefghijklmnopqrstuvwxyz"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    (root / "file.txt").write_bytes(ALPHABET)
    (root / "empty").touch()
    os.utime(root / "file.txt", (1e9, 1e9))
    return root


def test_a_file_has_its_header_fields(root: Path) -> None:
    async def main(service: FileService) -> None:
        answer = await ask(service, "GET", "/file.txt")
        assert (answer.status, answer.body) == (200, ALPHABET)
        assert answer.headers.get("content-length") == "26"
        assert answer.headers.get("content-type") == "text/plain; charset=utf-8"
        assert answer.headers.get("last-modified") == "Sun, 09 Sep 2001 01:46:40 GMT"
        assert answer.headers.get("etag").startswith('"')
        head = await ask(service, "HEAD", "/file.txt")
        assert (head.status, head.body) == (200, b"")
        assert head.headers.fields == answer.headers.fields
        assert (await ask(service, "GET", "/empty")).body == b""
        missing = await ask(service, "HEAD", "/missing")
        assert (missing.status, missing.body) == (404, b"")
        assert int(missing.headers.get("content-length")) > 10

    serving(main, root)


def test_what_is_large_is_left_to_sendfile(root: Path) -> None:
    data = random.Random(1).randbytes(1 << 20)
    (root / "large").write_bytes(data)

    async def main(service: FileService) -> None:
        answer = await ask(service, "GET", "/large")
        assert isinstance(answer.response.body, FileBody)
        assert answer.body == data
        part = await ask(service, "GET", "/large", range="bytes=1000-800000")
        assert isinstance(part.response.body, FileBody)
        assert part.body == data[1000:800001]

    serving(main, root)


def test_the_tag_changes_with_the_file(root: Path) -> None:
    async def main(service: FileService) -> None:
        seen = set()
        for data in (b"1", b"2", b"22"):
            new = root / "new"
            new.write_bytes(data)
            os.utime(new, (1e9, 1e9))  # both have the same date and size
            new.replace(root / "file.txt")
            seen.add((await ask(service, "GET", "/file.txt")).headers.get("etag"))
        assert len(seen) == 3

    serving(main, root)


EARLIER, AT, LATER = (f"Sun, 09 Sep 2001 01:46:{second} GMT" for second in (39, 40, 41))


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"if_none_match": "TAG"}, 304),
        ({"if_none_match": "W/TAG"}, 304),
        ({"if_none_match": '"a,b", W/TAG'}, 304),
        ({"if_none_match": "*"}, 304),
        ({"if_none_match": '"other"'}, 200),
        ({"if_none_match": "nonsense"}, 200),
        ({"if_none_match": '"other"', "if_modified_since": AT}, 200),
        ({"if_modified_since": AT}, 304),
        ({"if_modified_since": LATER}, 304),
        ({"if_modified_since": EARLIER}, 200),
        ({"if_modified_since": "yesterday"}, 200),
        ({"if_match": "TAG"}, 200),
        ({"if_match": '"x", TAG'}, 200),
        ({"if_match": "*"}, 200),
        ({"if_match": "W/TAG"}, 412),
        ({"if_match": '"other"'}, 412),
        ({"if_match": '"other"', "if_none_match": "TAG"}, 412),
        ({"if_unmodified_since": AT}, 200),
        ({"if_unmodified_since": EARLIER}, 412),
        ({"if_match": "TAG", "if_unmodified_since": EARLIER}, 200),
    ],
)
def test_conditions(root: Path, fields: dict[str, str], status: int) -> None:
    async def main(service: FileService) -> None:
        tag = (await ask(service, "GET", "/file.txt")).headers.get("etag")
        filled = {name: value.replace("TAG", tag) for name, value in fields.items()}
        for method in ("GET", "HEAD"):
            answer = await ask(service, method, "/file.txt", **filled)
            assert answer.status == status
            if status == 304:
                assert answer.body == b""
                assert answer.headers.get("etag") == tag
                assert "content-type" not in answer.headers

    serving(main, root)


@pytest.mark.parametrize(
    ("value", "body"),
    [
        ("bytes=0-0", b"a"),
        ("bytes=2-4", b"cde"),
        ("bytes=20-", b"uvwxyz"),
        ("bytes=-3", b"xyz"),
        ("bytes=-100", ALPHABET),
        ("bytes=24-1000", b"yz"),
        ("BYTES= 24-25 ", b"yz"),
        ("bytes=99-100,1-1", b"b"),
    ],
)
def test_one_range(root: Path, value: str, body: bytes) -> None:
    async def main(service: FileService) -> None:
        answer = await ask(service, "GET", "/file.txt", range=value)
        assert (answer.status, answer.body) == (206, body)
        first = ALPHABET.index(body)
        expected = f"bytes {first}-{first + len(body) - 1}/26"
        assert answer.headers.get("content-range") == expected
        assert answer.headers.get("content-length") == str(len(body))
        head = await ask(service, "HEAD", "/file.txt", range=value)
        assert (head.status, head.headers.get("content-length")) == (200, "26")

    serving(main, root)


@pytest.mark.parametrize(
    "value",
    [
        "lines=1-2",
        "bytes=",
        "bytes=a-b",
        "bytes=5-2",
        "bytes=-",
        "bytes=1-2-3",
        "bytes=1-2;3-4",
        "bytes=0-5,3-9",  # they overlap
        "bytes=" + ",".join(["0-0"] * 2),
        "bytes=" + ",".join(f"{n}-{n}" for n in range(33)),
        "bytes=" + "9" * 30 + "-",
    ],
)
def test_ranges_that_are_ignored(root: Path, value: str) -> None:
    async def main(service: FileService) -> None:
        answer = await ask(service, "GET", "/file.txt", range=value)
        assert (answer.status, answer.body) == (200, ALPHABET)

    serving(main, root)


@pytest.mark.parametrize("value", ["bytes=26-", "bytes=100-200", "bytes=-0", "bytes=30-31,40-"])
def test_ranges_that_no_byte_is_in(root: Path, value: str) -> None:
    async def main(service: FileService) -> None:
        answer = await ask(service, "GET", "/file.txt", range=value)
        assert answer.status == 416
        assert answer.headers.get("content-range") == "bytes */26"
        assert (await ask(service, "GET", "/empty", range="bytes=0-")).status == 416

    serving(main, root)


def test_several_ranges(root: Path) -> None:
    async def main(service: FileService) -> None:
        answer = await ask(service, "GET", "/file.txt", range="bytes=-2,0-0,5-8")
        assert answer.status == 206
        assert answer.headers.get("content-length") == str(len(answer.body))
        assert "content-range" not in answer.headers
        kind = answer.headers.get("content-type")
        message = email.message_from_bytes(
            f"Content-Type: {kind}\r\n\r\n".encode() + answer.body, policy=email.policy.HTTP
        )
        parts = [
            (
                part["Content-Range"],
                part.get_content_type(),
                part.get_payload(decode=True),
            )
            for part in message.iter_parts()
        ]
        text = "text/plain"
        assert parts == [
            ("bytes 24-25/26", text, b"yz"),
            ("bytes 0-0/26", text, b"a"),
            ("bytes 5-8/26", text, b"fghi"),
        ]

    serving(main, root)


def test_several_ranges_given_up(root: Path) -> None:
    """A body that is not read, or only partly, leaves no descriptor (checked in conftest.py)."""

    async def main(service: FileService) -> None:
        from noria.http.messages import Headers, Request

        for begun in (True, False):
            headers = Headers([("range", "bytes=0-1,3-4")])
            response = await service.handle(Request("GET", "/file.txt", headers))
            if begun:
                await anext(response.body)
            await response.body.aclose()

    serving(main, root)


def test_a_file_that_shrinks_under_several_ranges_is_an_error(root: Path) -> None:
    fd = os.open(root / "file.txt", os.O_RDONLY)
    several = ranges.MultipartByteRanges([(0, 1), (20, 6)], 26, "text/plain")
    os.truncate(root / "file.txt", 22)
    with pytest.raises(OSError, match="shorter"):
        list(several.read_blocks(fd))
    os.close(fd)


@pytest.mark.parametrize(
    ("value", "status"),
    [("TAG", 206), ("W/TAG", 200), ('"other"', 200), (AT, 206), (LATER, 200), ("nonsense", 200)],
)
def test_if_range(root: Path, value: str, status: int) -> None:
    async def main(service: FileService) -> None:
        tag = (await ask(service, "GET", "/file.txt")).headers.get("etag")
        answer = await ask(
            service,
            "GET",
            "/file.txt",
            range="bytes=0-1",
            if_range=value.replace("TAG", tag),
        )
        assert answer.status == status

    serving(main, root)


def test_compressed_siblings(root: Path) -> None:
    packed = gzip.compress(ALPHABET)
    (root / "file.txt.gz").write_bytes(packed)
    (root / "file.txt.br").write_bytes(b"brotli")
    (root / "file.txt.zst").symlink_to("../outside")

    async def main(service: FileService) -> None:
        async def of(coding: str, **more: str) -> Answer:
            return await ask(service, "GET", "/file.txt", accept_encoding=coding, **more)

        plain = await ask(service, "GET", "/file.txt")
        zipped = await of("gzip, deflate")
        assert zipped.body == packed
        assert zipped.headers.get("content-encoding") == "gzip"
        assert zipped.headers.get("content-type") == plain.headers.get("content-type")
        assert zipped.headers.get("content-length") == str(len(packed))
        assert zipped.headers.get("etag") != plain.headers.get("etag")
        assert plain.headers.get("vary") == zipped.headers.get("vary") == "Accept-Encoding"
        assert (await of("gzip, br, zstd")).body == b"brotli"
        assert (await of("br;q=0.2, gzip")).body == packed
        assert (await of("*")).body == b"brotli"
        for coding in ("", "identity", "gzip;q=0", "zstd", "deflate"):
            answer = await of(coding)
            assert (answer.body, answer.headers.get("content-encoding")) == (ALPHABET, "")
        part = await of("gzip", range="bytes=0-1")
        assert (part.status, part.body) == (206, packed[:2])
        os.utime(root / "file.txt")  # now newer than its siblings
        os.utime(root / "file.txt.gz", (1, 1))
        assert (await of("gzip")).body == ALPHABET
        itself = await ask(service, "GET", "/file.txt.gz", accept_encoding="gzip")
        assert itself.headers.get("content-type") == "application/gzip"
        assert "content-encoding" not in itself.headers

    serving(main, root)


@pytest.mark.parametrize(
    "name",
    ["a.html", "a.HTM", "a.svg", "a.svgz", "a.xml", "a.xhtml", "a.js", "a.mjs", "a.atom", "a.xsl",
     "a.mht", "a.shtml", "a.swf"],
)  # fmt: skip
def test_active_types_are_saved_and_not_shown(root: Path, name: str) -> None:
    (root / name).write_bytes(b"<script>alert(1)</script>")

    async def main(service: FileService) -> None:
        answer = await ask(service, "GET", f"/{name}")
        assert answer.headers.get("content-disposition") == f'attachment; filename="{name}"'
        assert "sandbox" in answer.headers.get("content-security-policy")
        part = await ask(service, "GET", f"/{name}", range="bytes=0-1,3-4")
        assert part.headers.get("content-disposition").startswith("attachment")

    async def inline(service: FileService) -> None:
        assert "content-disposition" not in (await ask(service, "GET", f"/{name}")).headers

    serving(main, root)
    serving(inline, root, inline_active=True)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.png", "image/png"),
        ("a.pdf", "application/pdf"),
        ("a.md", "text/markdown; charset=utf-8"),
        ("a.tar.gz", "application/gzip"),
        ("a.unknown", "application/octet-stream"),
        ("data:text_html,x", "application/octet-stream"),
        ("http:x.png", "image/png"),
    ],
)
def test_media_types(name: str, kind: str) -> None:
    assert media_types.guess_media_type(name) == kind
    assert not media_types.is_active(name, kind)


@pytest.mark.parametrize(
    ("name", "disposition"),
    [
        ("a b.txt", 'attachment; filename="a b.txt"'),
        ("naïve €.txt", "attachment; filename=\"na_ve _.txt\"; filename*=UTF-8''"
         "na%C3%AFve%20%E2%82%AC.txt"),
        ('"; x="', "attachment; filename=\"_; x=_\"; filename*=UTF-8''%22%3B%20x%3D%22"),
        ("50%41", "attachment; filename=\"50_41\"; filename*=UTF-8''50%2541"),
    ],
)  # fmt: skip
def test_names_of_attachments(root: Path, name: str, disposition: str) -> None:
    (root / name).touch()

    async def main(service: FileService) -> None:
        answer = await ask(service, "GET", f"/{name}", query={"download": ""})
        assert answer.headers.get("content-disposition") == disposition

    serving(main, root)


def test_a_digest_on_request(root: Path) -> None:
    async def main(service: FileService) -> None:
        answer = await ask(service, "GET", "/file.txt", want_repr_digest="sha-256=10")
        digest = base64.b64encode(hashlib.sha256(ALPHABET).digest()).decode()
        assert answer.headers.get("repr-digest") == f"sha-256=:{digest}:"
        assert answer.body == ALPHABET
        answer = await ask(service, "GET", "/file.txt", want_repr_digest="sha-256=0")
        assert "repr-digest" not in answer.headers

    serving(main, root)


def test_a_listing_as_json_and_as_a_page(root: Path) -> None:
    (root / "d").mkdir()
    (root / "a <b>&'\".txt").write_bytes(b"123")
    (root / "link").symlink_to("d")
    (root / "out").symlink_to("/etc")
    (root / ".noria-1.part").touch()
    (root / "bad\nname").touch()
    (root / "-").touch()
    os.mkfifo(root / "fifo")
    with open(os.fsencode(root) + b"/\xff", "w"):
        pass

    async def main(service: FileService) -> None:
        answer = await ask(service, "GET", "/", accept="application/json")
        assert answer.headers.get("content-type") == "application/json"
        data = json.loads(answer.body)
        assert (data["path"], data["writable"]) == ("/", False)
        assert [(e["name"], e["type"], e["size"]) for e in data["entries"]] == [
            ("a <b>&'\".txt", "file", 3),
            ("d", "directory", 0),
            ("empty", "file", 0),
            ("file.txt", "file", 26),
            ("link", "directory", 0),
        ]
        assert data["entries"][3]["modified"] == 1e9
        for accept in ("", "*/*", "text/html, */*;q=0.8", "application/json;q=0.1, text/html"):
            page = await ask(service, "GET", "/", accept=accept)
            assert page.headers.get("content-type") == "text/html; charset=utf-8"
            assert b"file.txt" in page.body
            assert b"<b>" not in page.body
            assert b".noria-" not in page.body
        head = await ask(service, "HEAD", "/")
        assert (head.status, head.body) == (200, b"")
        assert head.headers.get("content-length") == str(len(page.body))
        assert (await ask(service, "GET", "/file.txt/")).status == 404
        assert (await ask(service, "GET", "/missing/")).status == 404
        moved = await ask(service, "GET", "/d", query={"archive": "tar", "q": "a&b"})
        assert moved.status == 308
        assert moved.headers.get("location") == "/d/?archive=tar&q=a%26b"

    serving(main, root)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Directories (one is empty), a large file, unusual names, a link to the outside, a FIFO."""
    root = tmp_path / "tree"
    (root / "d" / "e").mkdir(parents=True)
    (root / "d" / "none").mkdir()
    (root / "d" / "large").write_bytes(random.Random(2).randbytes(700_001))
    (root / "d" / "e" / ("long " * 30 + "é.txt")).write_bytes(b"1")
    (root / "d" / "empty").touch()
    (root / "d" / "link").symlink_to("/etc/passwd")
    (root / "d" / "inside").symlink_to("e")
    os.mkfifo(root / "d" / "fifo")
    return root


def expected(root: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
        for path in [root / "d", *(root / "d").rglob("*")]
        if not path.is_symlink() and not path.is_fifo()
    }


@pytest.mark.parametrize("native", [True, False], ids=["openat2", "walk"])
def test_a_directory_as_a_tar(tree: Path, native: bool) -> None:
    async def main(service: FileService) -> None:
        answer = await ask(service, "GET", "/d/", query={"archive": "tar"})
        assert answer.headers.get("content-disposition") == 'attachment; filename="d.tar"'
        with tarfile.open(fileobj=io.BytesIO(answer.body)) as opened:
            found = {
                m.name: opened.extractfile(m).read() if m.isfile() else None  # type: ignore[union-attr]
                for m in opened
            }
        assert found == expected(tree)
        head = await ask(service, "HEAD", "/d/", query={"archive": "tar"})
        assert (head.status, head.body) == (200, b"")
        assert (await ask(service, "GET", "/d/", query={"archive": "rar"})).status == 400
        assert (await ask(service, "GET", "/x/", query={"archive": "tar"})).status == 404

    serving(main, tree, native=native)


def test_a_directory_as_a_zip(tree: Path) -> None:
    os.utime(tree / "d" / "empty", (0, 0))  # before the earliest time of a zip

    async def main(service: FileService) -> None:
        answer = await ask(service, "GET", "/d/", query={"archive": "zip"})
        with zipfile.ZipFile(io.BytesIO(answer.body)) as opened:
            assert opened.testzip() is None
            found = {
                i.filename.rstrip("/"): None if i.is_dir() else opened.read(i)
                for i in opened.infolist()
            }
        assert found == expected(tree)

    serving(main, tree)


@pytest.mark.parametrize("size", [0, 300_000, 900_000])
def test_a_file_that_changes_while_it_is_archived(tree: Path, size: int) -> None:
    """Blocks are made one by one, so a file can be changed while it is archived."""
    before = (tree / "d" / "large").read_bytes()
    root = Root(tree)
    for make in (archive.tar_blocks, archive.zip_blocks):
        (tree / "d" / "large").write_bytes(before)
        top = root.open("/d/", os.O_RDONLY)
        blocks = make(root, top, "d")
        data = next(blocks)
        os.truncate(tree / "d" / "large", size)
        data += b"".join(blocks)
        os.close(top)
        if make is archive.tar_blocks:
            with tarfile.open(fileobj=io.BytesIO(data)) as opened:
                file = opened.extractfile("d/large")
                assert file is not None
                content = file.read()
            assert len(content) == len(before)
        else:
            with zipfile.ZipFile(io.BytesIO(data)) as zipped:
                assert zipped.testzip() is None
                content = zipped.read("d/large")
        kept = min(size, len(before))
        assert content[:250_000] == before[:250_000]
        assert content[262_144:kept] == before[262_144:kept]
    root.close()


def test_an_archive_keeps_no_file_in_memory(tree: Path) -> None:
    with open(tree / "d" / "huge", "wb") as file:
        file.truncate(64 << 20)
    root = Root(tree)
    top = root.open("/d/", os.O_RDONLY)
    sizes = [len(block) for block in archive.tar_blocks(root, top, "d")]
    os.close(top)
    root.close()
    assert sum(sizes) > 64 << 20
    assert max(sizes) <= 2 * archive.BLOCK


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_skipped_entries_of_an_archive_are_logged_once(
    tree: Path, kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refused = {"large": errno.EACCES, "e": errno.EACCES, "empty": errno.ENOENT}
    open_from = Root.open_from

    def opened(root: Root, top: int, parts: list[str], flags: int, mode: int = 0o666) -> int:
        if parts and (number := refused.get(parts[-1])):
            raise OSError(number, os.strerror(number))
        return open_from(root, top, parts, flags, mode)

    monkeypatch.setattr(Root, "open_from", opened)

    async def main(service: FileService) -> None:
        answer = await ask(service, "GET", "/d/", query={"archive": kind})
        assert answer.status == 200
        if kind == "tar":
            with tarfile.open(fileobj=io.BytesIO(answer.body)) as archived:
                assert archived.getnames() == ["d", "d/none"]
        else:
            with zipfile.ZipFile(io.BytesIO(answer.body)) as zipped:
                assert zipped.namelist() == ["d/", "d/none/"]

    serving(main, tree)
    assert [record.getMessage() for record in caplog.records] == [
        "an archive of d lacks 2 entries that cannot be read; the first is d/e (Permission denied)"
    ]


def test_an_archive_given_up(tree: Path) -> None:
    async def main(service: FileService) -> None:
        from noria.http.messages import Request

        for begun in (True, False):
            response = await service.handle(Request("GET", "/d/", query={"archive": "tar"}))
            if begun:
                await anext(response.body)
            await response.body.aclose()

    serving(main, tree)


def test_names_of_one_file() -> None:
    check_name("a")
    for wrong in ("a/b", "", "..", "a\\b", ".noria-x"):
        with pytest.raises(HTTPException):
            check_name(wrong)
