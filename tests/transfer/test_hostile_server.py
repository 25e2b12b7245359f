"""Hostile and broken servers, with ``noria get`` and ``noria put``."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import os
import resource
import zlib
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("httpx")

import noria
from noria.transfer import get as downloads
from noria.transfer import parsers, response_body, resume_state, status_errors
from noria.transfer import put as uploads
from noria.transfer.errors import TransferError
from noria.transfer.options import TransferOptions
from noria.transfer.tus import CHUNK_BYTES
from support.scripted_server import ScriptedServer, response

LARGE = b"x" * ((1 << 20) + 5)  # more than one PUT sends


def get(server, paths, output, *, recursive=False, **options):
    urls = [server.url + path for path in paths]
    return noria.run(downloads.get(urls, output, TransferOptions(**options), recursive=recursive))


def put(server, sources, path, **options):
    return noria.run(uploads.put(sources, server.url + path, TransferOptions(**options)))


def by_name(outcomes):
    return {Path(each.name).name: each for each in outcomes}


def beside_good(paths, here, answer, **options):
    """Return the outcomes of `paths`; /good is fetched with them and must succeed in any case."""

    def good_too(method, path, headers):
        return response(body=b"good") if path == "/good" else answer(method, path, headers)

    with ScriptedServer(good_too) as server:
        outcomes = get(server, [*paths, "/good"], here, **{"retries": 1, **options})
    assert by_name(outcomes)["good"].status == "done"
    return [each for each in outcomes if Path(each.name).name != "good"]


# Fields of a download


@pytest.mark.parametrize(
    "location",
    ["http://h:99999/", "http://xn--/", "http://xn--a/", "http://[::1", "http://h:abc/",
     "http://a..b/", f"http://{'a' * 64}/", "http://h:0/", "http://[v1.x]/",
     "/a\x7f", "ftp://h/a", "/" + "a" * 70_000, b"http://\xe2\x84\x80/"],
)  # fmt: skip
def test_a_redirect_to_no_url_fails_alone(here, location):
    [outcome] = beside_good(["/a"], here, lambda *_: response(302, location=location))
    assert outcome.status == "failed"
    assert outcome.error.startswith("the server's Location is not a usable URL: ")


def test_redirects_without_end(here):
    numbers = itertools.count()
    [outcome] = beside_good(["/a"], here, lambda *_: response(302, location=f"/{next(numbers)}"))
    assert outcome.error == "the server redirects more than 20 times"


def test_the_body_of_a_redirect_is_not_read(here):
    def answer(method, path, headers):
        if path == "/b":
            return response(body=b"hello")
        return itertools.chain(
            [response(302, location="/b", content_length=1 << 50)], itertools.repeat(b"x" * 65536)
        )

    with ScriptedServer(answer) as server:
        [outcome] = get(server, ["/a"], here)
    assert outcome.status == "done"
    assert (here / "a").read_bytes() == b"hello"


def test_a_login_is_not_sent_to_where_a_redirect_leads(here):
    with ScriptedServer(lambda *_: response(body=b"a")) as other:
        for options in ({"token": "secret"}, {"auth": ("user", "secret")}):
            with ScriptedServer(lambda *_: response(302, location=f"{other.url}/x")) as server:
                [outcome] = get(server, ["/a"], here, overwrite=True, **options)
                assert outcome.status == "done"
                assert "authorization" in server.seen[0][2]
    assert len(other.seen) == 2
    assert not any("authorization" in headers for _, _, headers in other.seen)


def test_a_login_is_kept_on_the_same_server(here):
    def answer(method, path, headers):
        return response(302, location="/b") if path == "/a" else response(body=b"b")

    with ScriptedServer(answer) as server:
        assert get(server, ["/a"], here, auth=("u", "p"))[0].status == "done"
    assert [headers["authorization"] for _, _, headers in server.seen] == ["Basic dTpw"] * 2


@pytest.mark.parametrize("digits", ["9" * 5000, "\xb2", "9" * 21, "-1", "+5", "0x5", "5, 6"])
def test_a_length_that_is_no_number_fails_alone(here, digits):
    [outcome] = beside_good(["/a"], here, lambda *_: response(body=b"hello", content_length=digits))
    assert outcome.status == "failed"


def interrupted(data, at, etag='"e"'):
    """A response whose connection is closed in the middle of the body."""
    return response(body=data[:at], content_length=len(data), etag=etag)


@pytest.mark.parametrize(
    "fields_of_206",
    [
        {"content_range": f"bytes 5-9/{'9' * 5000}"},
        {"content_range": f"bytes {'0' * 5000}5-9/10"},
        {"content_range": "bytes \xb25-9/10"},
        {"content_range": "bytes 5-10/10"},
        {"content_range": "bytes 5-3/10"},
        {"content_range": "bytes 4-9/10"},
        {"content_range": "bytes 5-9/*"},
        {"content_range": "items 5-9/10"},
        {},
        {"content_range": "bytes 5-9/10", "etag": '"other"'},
        {"content_range": "bytes 5-9/10", "etag": 'W/"e"'},
        {"content_range": "bytes 5-9/10", "etag": ""},
    ],
)
def test_a_part_that_does_not_fit_is_not_joined(here, fields_of_206):
    def answer(method, path, headers):
        if "range" in headers:
            return response(206, b"WRONG", **fields_of_206)
        first = len(server.seen) == 1
        return interrupted(b"0123456789", 5) if first else response(body=b"abcdefghij")

    with ScriptedServer(answer) as server:
        [outcome] = get(server, ["/a"], here)
    assert outcome.status == "done"
    assert (here / "a").read_bytes() == b"abcdefghij"
    assert [headers.get("range") for _, _, headers in server.seen] == [None, "bytes=5-", None]


@pytest.mark.parametrize("etag", ['"e"', None])
def test_a_part_of_the_same_version_is_joined(here, etag):
    def answer(method, path, headers):
        if "range" not in headers:
            return interrupted(b"0123456789", 5)
        more = {"etag": etag} if etag else {}
        return response(206, b"56789", content_range="bytes 5-9/10", **more)

    with ScriptedServer(answer) as server:
        get(server, ["/a"], here)
    assert (here / "a").read_bytes() == b"0123456789"


def test_a_part_that_was_not_requested_is_refused(here):
    """The part of an earlier run has no ETag, so that no range is requested."""
    with ScriptedServer(lambda *_: interrupted(b"a" * 40, 30, etag="")) as server:
        get(server, ["/a"], here, retries=0)
        assert (here / "a.part").read_bytes() == b"a" * 30
        server.answer = lambda *_: response(206, b"0123456789", content_range="bytes 0-9/10")
        [outcome] = get(server, ["/a"], here)
    assert outcome.error == "the server sent a part of the file, but all of it was requested"
    assert os.listdir(here) == ["a.part"]


def test_more_than_the_file_has_is_not_written(here):
    def endless(method, path, headers):
        if "range" not in headers:
            return interrupted(b"0123456789", 5)
        head = response(206, content_range="bytes 5-9/10", content_length=None)
        return itertools.chain([head], itertools.repeat(b"x" * 65536))

    [outcome] = beside_good(["/a"], here, endless)
    assert outcome.error == "the server sent more bytes than the file has"
    assert not list(here.glob("a*"))


@pytest.mark.parametrize(
    "etag", [b'"\xc3\xa9"', b'"\xff"', b'"a"b"', b'"', b'W/"a"', b'"' + b"x" * 9000 + b'"']
)
def test_an_etag_that_cannot_be_sent_back_is_none(here, etag):
    def answer(method, path, headers):
        assert "if-range" not in headers
        return response(body=b"hello", content_length=10 if len(server.seen) == 1 else 5, etag=etag)

    with ScriptedServer(answer) as server:
        [outcome] = get(server, ["/a"], here)
    assert (outcome.status, (here / "a").read_bytes()) == ("done", b"hello")


@pytest.mark.parametrize(
    "date",
    ["Mon, 01 Jan 99999999999999999999 00:00:00 GMT",
     "Mon, 01 Jan 2024 99:99:99 GMT", "Mon, 01 Jan 2024 00:00:00 +9999999999", "Mon", "\xb2",
     "Mon, 01 Jan 9999 23:59:59 -2359", "Mon, 31 Feb 2024 00:00:00 GMT", "1 Jan", "9" * 5000],
)  # fmt: skip
def test_a_date_that_is_none_is_ignored(here, date):
    for _ in range(2):  # the second time the file is there, and its date is compared
        with ScriptedServer(lambda *_: response(body=b"hello", last_modified=date)) as server:
            [outcome] = get(server, ["/a"], here)
    assert outcome.error.endswith("exists; --overwrite replaces it")
    assert (here / "a").read_bytes() == b"hello"


@pytest.mark.parametrize(
    "field",
    [{"repr_digest": "sha-256=:AA==:"}, {"repr_digest": "sha-256=:=:"},
     {"repr_digest": f"sha-256=:{'A' * 5001}:"}, {"x_checksum_sha256": "\xb2" * 64},
     {"x_checksum_sha256": "a" * 63}],
)  # fmt: skip
def test_a_checksum_that_is_none_verifies_nothing(here, field):
    with ScriptedServer(lambda *_: response(body=b"hello", **field)) as server:
        [outcome] = get(server, ["/a"], here)
    assert (outcome.status, outcome.verified) == ("done", False)


@pytest.mark.parametrize(
    "cookie",
    [b"a=\xc3\xa9", b"\xe9=1; path=\xe9", b"a=b; max-age=" + b"9" * 5000,
     b"a=b; expires=Mon, 01 Jan 99999999999999999999 00:00:00 GMT"],
)  # fmt: skip
def test_cookies_are_neither_kept_nor_sent(here, cookie):
    fields = {"set_cookie": cookie, "set_cookie2": b"a=b; version=1; expires=x"}
    with ScriptedServer(lambda *_: response(body=b"hello", **fields)) as server:
        outcomes = get(server, ["/a", "/b"], here, jobs=1)
    assert {each.status for each in outcomes} == {"done"}
    assert not any("cookie" in headers for _, _, headers in server.seen)


@pytest.mark.parametrize(
    "line",
    [b"", b"garbage", b"HTTP/1.1 099 x", b"HTTP/1.1 20000 x", b"\x16\x03\x01",
     b"HTTP/1.1 \xc2\xb200 OK", b"HTTP/1.1 600 \xff\x1b[31m", b"HTTP/1.1 101 x", b"HTTP/1.1 204 x"],
)  # fmt: skip
def test_a_status_that_is_none_fails_alone(here, line):
    [outcome] = beside_good(["/a"], here, lambda *_: response(line))
    assert outcome.status == "failed"
    assert outcome.error


def test_bytes_that_come_and_are_lost_again_are_no_progress(here):
    """A server that changes the file each time must not keep the command going."""
    numbers = itertools.count()

    def answer(method, path, headers):
        data = bytes(10 + next(numbers) % 2)
        return interrupted(data, 5, f'"{next(numbers)}"')

    [outcome] = beside_good(["/a"], here, answer, retries=3)
    assert "received 5 bytes, expected 1" in outcome.error


# Time


def dripping(server, *parts):
    """Yield the parts, then nothing until the test ends."""
    for part in parts:
        yield part
        if server.ended.wait(0.02):
            return
    server.ended.wait()


def drip(server, part):
    while not server.ended.wait(0.02):
        yield part


@pytest.mark.parametrize(
    "start",
    [b"", b"HTTP/1.1 200 OK\r\nx: ", b"HTTP/1.1 103 Early\r\n\r\n", b"HTTP/1.1 200 OK\r\n"],
)
def test_a_head_that_drips_is_ended_by_the_timeout(here, start):
    piece = b"a: b\r\n" if start.endswith(b"\n") else b"H"

    def answer(method, path, headers):
        return itertools.chain([start], drip(server, piece))

    with ScriptedServer(answer) as server:
        [outcome] = get(server, ["/a"], here, retries=0, timeout=0.3)
        assert outcome.error == "no answer in time"
        [outcome] = get(server, ["/a"], here, recursive=True, retries=0, timeout=0.3)
        assert outcome.error == "no answer in time"


def test_heads_without_end_are_ended_by_the_timeout(here):
    """Each head is complete in time; only all of them together are too slow."""
    with ScriptedServer(lambda *_: drip(server, b"HTTP/1.1 102 Processing\r\n\r\n")) as server:
        [outcome] = get(server, ["/a"], here, retries=0, timeout=0.3)
    assert outcome.error == "no answer in time"


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_stops_is_ended_by_the_timeout(here, chunked):
    def answer(method, path, headers):
        if not chunked:
            return dripping(server, response(body=b"hello", content_length=10))
        head = response(content_length=None, transfer_encoding="chunked")
        return itertools.chain([head, b"5\r\nhello\r\n5;"], drip(server, b"x"))

    with ScriptedServer(answer) as server:
        [outcome] = get(server, ["/a"], here, retries=0, timeout=0.3)
        assert outcome.error == "no answer in time"


def test_a_slow_body_is_not_ended(here):
    """It takes longer than the timeout, and never pauses for as long."""

    def answer(method, path, headers):
        yield response(content_length=40)
        for _ in range(40):
            server.ended.wait(0.02)
            yield b"x"

    with ScriptedServer(answer) as server:
        [outcome] = get(server, ["/a"], here, retries=0, timeout=0.4)
    assert outcome.status == "done"


def test_an_answer_to_put_that_drips_is_ended_by_the_timeout(here):
    (here / "a").write_bytes(b"hello")

    def answer(method, path, headers):
        return itertools.chain([response(201, content_length=10_000)], drip(server, b"x"))

    with ScriptedServer(answer) as server:
        [outcome] = put(server, [here / "a"], "/a", retries=0, timeout=0.3)
    assert outcome.error == "no answer in time"


def test_an_error_text_that_drips_is_omitted(here, monkeypatch):
    monkeypatch.setattr(status_errors, "ERROR_TEXT_SECONDS", 0.2)

    def answer(method, path, headers):
        head = response(404, content_type="text/plain", content_length=1000)
        return itertools.chain([head], drip(server, b"x"))

    with ScriptedServer(answer) as server:
        [outcome] = get(server, ["/a"], here)
    assert outcome.error == ("the server says 404 Whatever: there is no such file or directory")


# Listings


def listed(entries):
    def answer(method, path, headers):
        if not path.endswith("/"):
            return response(body=b"a")
        text = entries if isinstance(entries, bytes) else json.dumps({"entries": entries}).encode()
        return response(body=text if path == "/d/" else b'{"entries": []}')

    return answer


@pytest.mark.parametrize(
    "name",
    ["\ud800", "a\udfffb", None, 1, ["a"], {"a": "b"}, "..", ".", "", "a/b", "a\0", "\udcff/"],
)  # fmt: skip
def test_an_entry_with_an_unusable_name_is_skipped(here, name):
    with ScriptedServer(listed([{"name": name}, {"name": "good"}])) as server:
        bad, good = get(server, ["/d/"], here, recursive=True)
    assert (bad.status, good.status) == ("failed", "done")
    assert "skipped" in bad.error
    assert os.listdir(here / "d") == ["good"]


@pytest.mark.parametrize("entry", [None, 1, "a", [], ["name"], {}])
def test_a_malformed_entry_is_skipped(here, entry):
    with ScriptedServer(listed([entry, {"name": "good", "type": {}}])) as server:
        bad, good = get(server, ["/d/"], here, recursive=True)
    assert (bad.status, good.status) == ("failed", "done")


@pytest.mark.parametrize(
    "name", ["a", "\N{SNOWMAN}", "?a#b%2f", "-", "\x1b[31m\n", "\udcff", "a\\b", " ", "n" * 256]
)
def test_a_name_is_only_a_name(here, name):
    with ScriptedServer(listed([{"name": name}, {"name": "good"}])) as server:
        outcomes = get(server, ["/d/"], here, recursive=True)
    ends = Counter(each.status for each in outcomes)
    assert ends == ({"done": 2} if len(name) < 256 else {"done": 1, "failed": 1})
    assert set(os.listdir(here / "d")) == ({name, "good"} if len(name) < 256 else {"good"})


NO_LISTINGS = {
    "deep lists": b"[" * 200_000,
    "deep objects": b'{"entries":' * 200_000,
    "deep entries": b'{"entries":[' + b'{"name":' * 200_000,
    "a long number": b'{"entries": [{"name": "a", "size": ' + b"9" * 5000 + b"}]}",
    "no list": b'{"entries": 1}',
    "a list": b"[]",
    "a number": b"1",
    "nothing": b"",
    "other bytes": b"\xff\xfe\x00",
}


@pytest.mark.parametrize("body", NO_LISTINGS.values(), ids=NO_LISTINGS)
def test_what_is_no_listing_fails_alone(here, body):
    def answer(method, path, headers):
        return response(body=body if path == "/d/" else b"good")

    with ScriptedServer(answer) as server:
        bad, good = get(server, ["/d/", "/good"], here, recursive=True)
    assert bad.error == "the server did not send a JSON listing; is it noria serve files?"
    assert good.status == "done"


def squeezed(mebibytes, wbits):
    """Compressed zeros, made without having them in memory: after a full flush a piece can be
    repeated. The checksum at the end is missing.
    """
    compress = zlib.compressobj(9, wbits=wbits)
    pieces = [compress.compress(bytes(1 << 20)) + compress.flush(zlib.Z_FULL_FLUSH) for _ in "12"]
    return pieces[0] + pieces[1] * (mebibytes - 1)


@pytest.mark.parametrize(("coding", "wbits"), [("gzip", 31), ("X-GZip", 31), ("deflate", 15)])
def test_a_compressed_listing_is_bounded(here, monkeypatch, coding, wbits):
    monkeypatch.setattr(response_body, "MAX_LISTING_BYTES", 4 << 20)
    body = squeezed(1 << 10, wbits)
    assert len(body) < 2 << 20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with ScriptedServer(lambda *_: response(body=body, content_encoding=coding)) as server:
        [outcome] = get(server, ["/d/"], here, recursive=True)
    assert outcome.error == "the listing exceeds 4 MiB; fetch its directories separately"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # KiB


def test_a_listing_without_end_is_bounded(here, monkeypatch):
    monkeypatch.setattr(response_body, "MAX_LISTING_BYTES", 4 << 20)
    head = response(content_length=None)
    answer = lambda *_: itertools.chain([head], itertools.repeat(b" " * 65536))  # noqa: E731
    with ScriptedServer(answer) as server:
        [outcome] = get(server, ["/d/"], here, recursive=True)
    assert outcome.error == "the listing exceeds 4 MiB; fetch its directories separately"


@pytest.mark.parametrize(
    "entries",
    [[{"name": str(i)} for i in range(101)], [{}] * 101, [[]] * 500, [0.5] * 1000, [0] * 101],
    ids=["files", "objects", "lists", "numbers", "entries"],
)
def test_entries_of_a_listing_are_bounded(here, monkeypatch, entries):
    monkeypatch.setattr(parsers, "MAX_LISTING_ENTRIES", 100)
    with ScriptedServer(listed(entries)) as server:
        [outcome] = get(server, ["/d/"], here, recursive=True)
    said = "the listing has more than 100 entries; fetch its directories separately"
    assert outcome.error == said
    with ScriptedServer(listed(entries[:100] if len(entries) == 101 else [])) as server:
        assert said not in {each.error for each in get(server, ["/d/"], here, recursive=True)}


def test_malformed_entries_are_reported_in_one_line(here):
    with ScriptedServer(listed([{"name": ".."}, 1, {}] * 2 + [{"name": "good"}])) as server:
        bad, good = get(server, ["/d/"], here, recursive=True)
    said = "the server lists '..', which is not a valid file name: skipped"
    assert bad.error == f"{said} (and 5 more entries)"
    assert good.status == "done"


@pytest.mark.parametrize("name", ["n" * 256, "n/" * 100_000, "\ud800" * 100_000])
def test_a_long_name_is_not_kept(here, name):
    with ScriptedServer(listed([{"name": name}, {"name": "good"}])) as server:
        bad, good = get(server, ["/d/"], here, recursive=True)
    assert "skipped" in bad.error
    assert len(bad.error) < 2000
    assert good.status == "done"


def endless(method, path, headers):
    """Each directory has a file and two directories."""
    if not path.endswith("/"):
        return response(body=b"a")
    entries = [{"name": name, "type": "directory"} for name in "de"] + [{"name": "f"}]
    return response(body=json.dumps({"entries": entries}).encode())


@pytest.mark.parametrize(
    ("limit", "count", "what"),
    [
        ("MAX_ENTRIES", 7, "entries"),
        ("MAX_DIRECTORIES", 7, "directories"),
        ("MAX_PATH_BYTES", 999, "bytes of paths"),
    ],
)
def test_a_tree_without_end_is_bounded(here, monkeypatch, limit, count, what):
    monkeypatch.setattr(downloads, limit, count)
    monkeypatch.setattr(downloads, "MAX_DEPTH", 20)
    with ScriptedServer(endless) as server:
        bad, *good = get(server, ["/d/"], here, recursive=True)
    assert bad.error.startswith(f"more than {count} {what} in one run; the rest is skipped")
    assert {each.status for each in good} == {"done"}
    assert len(server.seen) < 20


def test_the_depth_of_a_tree_is_bounded(here, monkeypatch):
    monkeypatch.setattr(downloads, "MAX_DEPTH", 1)
    with ScriptedServer(endless) as server:
        outcomes = get(server, ["/d/"], here, recursive=True)
    said = "directories are nested more than 1 deep: skipped (and 1 more entries)"
    assert [each.error for each in outcomes if each.error] == [said] * 2
    assert len([each for each in outcomes if each.status == "done"]) == 3


def test_a_compressed_listing_is_read(here):
    text = json.dumps({"entries": [{"name": "a"}]}).encode()

    def answer(method, path, headers):
        if path == "/d/a":
            return response(body=b"a")
        return response(body=gzip.compress(text), content_encoding="gzip")

    with ScriptedServer(answer) as server:
        [outcome] = get(server, ["/d/"], here, recursive=True)
    assert outcome.status == "done"


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "\xb2", "gzip"])
def test_a_listing_that_cannot_be_decompressed(here, coding):
    with ScriptedServer(lambda *_: response(body=b"{}", content_encoding=coding)) as server:
        [outcome] = get(server, ["/d/"], here, recursive=True)
    assert outcome.error.startswith(
        (
            "the server compressed its response unasked",
            "the server's response cannot be decompressed",
        )
    )


@pytest.mark.parametrize("coding", ["gzip", "br"])
def test_a_compressed_error_is_reported_by_its_status(here, coding):
    fields = {"content_encoding": coding, "content_type": "text/plain"}
    (here / "x").write_bytes(b"x")
    with ScriptedServer(lambda *_: response(404, b"{}", **fields)) as server:
        [got] = get(server, ["/a"], here)
        [sent] = put(server, [here / "x"], "/a")
    assert (
        got.error
        == sent.error
        == ("the server says 404 Whatever: there is no such file or directory")
    )


# Uploads


def tus(**more):
    """A tus server whose offset, location and options can be replaced."""

    def answer(method, path, headers):
        if method == "OPTIONS":
            return response(
                204,
                content_length=None,
                tus_version=more.get("version", "1.0.0"),
                tus_extension="creation,checksum",
                tus_checksum_algorithm="sha256",
            )
        if method == "POST":
            where = {"location": more.get("location", "/-/uploads/1")}
            return response(201, **{k: v for k, v in where.items() if v is not None})
        if method == "PATCH":
            whole = int(headers["upload-offset"]) + int(headers["content-length"])
            return response(204, content_length=None, upload_offset=more.get("offset", whole))
        if method == "HEAD" and path.startswith("/-/"):
            return response(200, upload_offset=more.get("offset", 0))
        return response(404 if method == "HEAD" else 201)

    return answer


@pytest.fixture
def files(here):
    (here / "large").write_bytes(LARGE)
    (here / "small").write_bytes(b"small")
    return [here / "large", here / "small"]


@pytest.mark.parametrize(
    "location",
    ["http://[::1", "http://127.0.0.1:abc/", "http://127.0.0.1:99999/", "http://xn--/", "",
     None, "javascript:1", "http://h/\x7f"],
)  # fmt: skip
def test_an_upload_that_leads_to_no_url_fails_alone(files, location):
    with ScriptedServer(tus(location=location)) as server:
        outcomes = by_name(put(server, files, "/d/", retries=0))
    assert outcomes["large"].error.startswith(
        ("the server's Location is not a usable URL: ", "the server sent no Location")
    )
    assert outcomes["small"].status == "done"


@pytest.mark.parametrize("offset", ["9" * 5000, "\xb2", "-1", "", "0x1", str(len(LARGE) + 1)])
def test_an_offset_that_is_none_fails_alone(files, offset):
    with ScriptedServer(tus(offset=offset)) as server:
        outcomes = by_name(put(server, files, "/d/", retries=0))
    assert outcomes["large"].status == "failed"
    assert "Upload-Offset" in outcomes["large"].error or "claims" in outcomes["large"].error
    assert outcomes["small"].status == "done"


def test_an_upload_is_not_done_because_the_server_claims_more_than_there_is(files):
    """The second run gets an offset behind the end of the file."""
    with ScriptedServer(tus(offset="7")) as server:
        assert put(server, files[:1], f"/{CHUNK_BYTES}", retries=0)[0].status == "failed"
        server.answer = tus(offset=str(len(LARGE) + 1))
        [outcome] = put(server, files[:1], f"/{CHUNK_BYTES}", retries=0)
    assert (
        outcome.error
        == f"the server claims to have {len(LARGE) + 1} bytes of a file of {len(LARGE)}"
    )


def test_an_offset_that_goes_back_and_forth_is_no_progress(files):
    offsets = itertools.cycle([0, 7])

    def answer(method, path, headers):
        if method == "HEAD" and path.startswith("/-/"):
            return response(200, upload_offset=next(offsets))
        return response(503) if method == "PATCH" else tus()(method, path, headers)

    with ScriptedServer(answer) as server:
        [outcome] = put(server, files[:1], "/a", retries=4)
    assert "503" in outcome.error


@pytest.mark.parametrize("note", [b"[" * 200_000, b'{"upload": "http://[::1"}', b'{"upload": 1}'])
def test_a_damaged_note_of_an_upload_is_none(files, note):
    with ScriptedServer(tus()) as server:
        path = resume_state.ResumeRecord("put", f"{server.url}/a", str(files[0].absolute())).path
        path.parent.mkdir(parents=True)
        path.write_bytes(note)
        [outcome] = put(server, files[:1], "/a")
    assert outcome.status == "done"


@pytest.mark.parametrize("etag", [b'"\xc3\xa9"', b'"', b"x"])
def test_put_over_a_file_whose_etag_cannot_be_sent_back(files, etag):
    def answer(method, path, headers):
        assert "if-match" not in headers
        return response(200 if method == "HEAD" else 204, content_length=None, etag=etag)

    with ScriptedServer(answer) as server:
        [outcome] = put(server, files[1:], "/a", overwrite=True)
    assert outcome.status == "done"


@pytest.mark.parametrize("value", ["9" * 5000, "\xb2", "-1", "inf", "nan"])
def test_retry_after_that_is_none(value):
    assert 0 <= parsers.retry_after(value) <= parsers.MAX_RETRY_AFTER_SECONDS


def test_a_url_that_is_none_is_a_failure(here):
    (here / "a").touch()
    for url in ("http://[::1/x", "http://h:99999/x", "x", "http://xn--/"):
        [outcome] = noria.run(downloads.get([url], here, TransferOptions()))
        assert "is not a usable URL" in outcome.error
        [outcome] = noria.run(downloads.get_to_pipe(url, io.BytesIO(), TransferOptions()))
        assert "is not a usable URL" in outcome.error
        with pytest.raises(TransferError, match="is not a usable URL"):
            noria.run(uploads.put([here / "a"], url, TransferOptions()))
