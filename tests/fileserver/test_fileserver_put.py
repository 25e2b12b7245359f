"""Uploads: complete or not stored at all, never replacing a file by default, within the limits."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import hashlib
import json
import os
import random
import signal
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from noria.fileserver import stale_files, syscalls
from noria.fileserver.quota import Quota
from noria.fileserver.root import Root
from noria.fileserver.service import FileService
from noria.http.messages import Headers, HTTPException, Request
from support.fileservice import ask, chunks, hidden, serving

DATA = random.Random(3).randbytes(3_000_001)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    return root


def test_a_file_is_stored_and_its_directory_reported(root: Path) -> None:
    changed: list[str] = []
    (root / "d").mkdir()

    async def main(service: FileService) -> None:
        service.files.on_change.append(lambda change: changed.extend(change.directories))
        for path, data in {"/large": DATA, "/d/small é": b"1", "/empty": b""}.items():
            answer = await ask(service, "PUT", path, data)
            assert answer.status == 201
            got = await ask(service, "GET", path)
            assert got.body == data
            assert got.headers.get("etag") == answer.headers.get("etag")
        assert answer.headers.get("location") == "/empty"
        assert (await ask(service, "PUT", "/chunked", chunks(DATA))).status == 201

    serving(main, root, uploads=True)
    assert (root / "chunked").read_bytes() == DATA
    assert changed == ["/", "/d/", "/", "/"]
    assert hidden(root) == []


def test_nothing_is_changed_unless_it_is_allowed(root: Path) -> None:
    (root / "file").write_bytes(b"1")
    form = {"content_type": "multipart/form-data; boundary=b"}

    async def every(service: FileService) -> list[Any]:
        return [
            await ask(service, "PUT", "/new", b"2"),
            await ask(service, "DELETE", "/file"),
            await ask(service, "MOVE", "/file", destination="/new"),
            await ask(service, "MKCOL", "/new"),
            await ask(service, "POST", "/", b"--b--\r\n", **form),
        ]

    async def off(service: FileService) -> None:
        for answer in await every(service):
            assert answer.status == 403
            assert b"--upload" in answer.body
        with pytest.raises(HTTPException):
            await service.files.store("/new", chunks(b"2"))

    async def read_only(service: FileService) -> None:
        for answer in await every(service):
            assert answer.status == 403
            assert b"--read-only" in answer.body

    serving(off, root)
    serving(read_only, root, uploads=True, overwrite=True, read_only=True)
    assert os.listdir(root) == ["file"]


def test_a_file_is_not_overwritten_by_default(root: Path) -> None:
    (root / "file").write_bytes(b"old")
    (root / "file").chmod(0o640)
    (root / "d").mkdir()

    async def main(service: FileService) -> None:
        answer = await ask(service, "PUT", "/file", b"new")
        assert (answer.status, b"--overwrite" in answer.body) == (409, True)
        for fields, status in (
            ({"if_match": '"other"'}, 412),
            ({"if_match": "*"}, 409),
            ({"if_none_match": "*"}, 412),
        ):
            assert (await ask(service, "PUT", "/file", b"new", **fields)).status == status
        assert (root / "file").read_bytes() == b"old"
        assert (await ask(service, "PUT", "/missing", b"new", if_match='"x"')).status == 412
        assert (await ask(service, "PUT", "/missing", b"new", if_match="*")).status == 412
        tag = (await ask(service, "GET", "/file")).headers.get("etag")
        answer = await ask(service, "PUT", "/file", b"new", if_match=tag)
        assert answer.status == 204
        assert answer.headers.get("etag") != tag
        assert (await ask(service, "PUT", "/file", b"newer", if_match=tag)).status == 412
        assert (await ask(service, "PUT", "/new", b"1", if_none_match="*")).status == 201

    async def overwriting(service: FileService) -> None:
        assert (await ask(service, "PUT", "/file", b"newest")).status == 204
        assert (await ask(service, "PUT", "/d", b"new")).status == 409
        assert (await ask(service, "PUT", "/d/", b"new")).status == 409
        os.mkfifo(root / "fifo")
        assert (await ask(service, "PUT", "/fifo", b"new")).status == 403

    serving(main, root, uploads=True)
    assert (root / "file").read_bytes() == b"new"
    serving(overwriting, root, uploads=True, overwrite=True)
    assert (root / "file").read_bytes() == b"newest"
    assert (root / "file").stat().st_mode & 0o777 == 0o640
    assert hidden(root) == []


@pytest.mark.parametrize("renameat2", [True, False])
def test_of_many_at_once_one_wins(
    root: Path, renameat2: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not renameat2:
        monkeypatch.setattr(syscalls, "_renameat2", None)

    async def main(service: FileService) -> None:
        bodies = [bytes([number]) * 100_000 for number in range(20)]
        answers = await asyncio.gather(*(ask(service, "PUT", "/file", body) for body in bodies))
        statuses = [answer.status for answer in answers]
        assert sorted(statuses) == [201] + [409] * 19
        assert (root / "file").read_bytes() == bodies[statuses.index(201)]

    serving(main, root, uploads=True)
    assert os.listdir(root) == ["file"]


def test_of_many_that_name_the_same_tag_one_wins(root: Path) -> None:
    (root / "file").write_bytes(b"old")

    async def main(service: FileService) -> None:
        tag = (await ask(service, "GET", "/file")).headers.get("etag")
        answers = await asyncio.gather(
            *(ask(service, "PUT", "/file", bytes([n]), if_match=tag) for n in range(20))
        )
        statuses = [answer.status for answer in answers]
        assert sorted(statuses) == [204] + [412] * 19
        assert (root / "file").read_bytes() == bytes([statuses.index(204)])

    serving(main, root, uploads=True)


def test_nothing_is_seen_half_written(root: Path) -> None:
    async def main(service: FileService) -> None:
        halfway, proceed = asyncio.Event(), asyncio.Event()

        async def body() -> AsyncIterator[bytes]:
            yield DATA[:2_000_000]
            halfway.set()
            await proceed.wait()
            yield DATA[2_000_000:]

        task = asyncio.ensure_future(ask(service, "PUT", "/file", body()))
        await halfway.wait()
        assert len(hidden(root)) == 1
        assert (await ask(service, "GET", "/file")).status == 404
        listed = await ask(service, "GET", "/", accept="application/json")
        assert json.loads(listed.body)["entries"] == []
        part = "/" + os.path.basename(hidden(root)[0])
        assert (await ask(service, "GET", part)).status == 403
        archive = await ask(service, "GET", "/", query={"archive": "tar"})
        assert b".part" not in archive.body
        assert await service.files.remove_stale() == 0
        proceed.set()
        assert (await task).status == 201
        assert (await ask(service, "GET", "/file")).body == DATA

    serving(main, root, uploads=True)


@pytest.mark.parametrize("ending", ["cancelled", "broken"])
@pytest.mark.parametrize("size", [0, 10, 2_000_000])
def test_an_upload_that_ends_in_the_middle_leaves_nothing(
    root: Path, ending: str, size: int
) -> None:
    async def main(service: FileService) -> None:
        halfway = asyncio.Event()

        async def body() -> AsyncIterator[bytes]:
            yield DATA[:size]
            halfway.set()
            if ending == "broken":
                raise ConnectionResetError("the client has gone")
            await asyncio.Event().wait()

        task = asyncio.ensure_future(service.files.store("/file", body()))
        await halfway.wait()
        task.cancel() if ending == "cancelled" else None
        expected = asyncio.CancelledError if ending == "cancelled" else ConnectionResetError
        with pytest.raises(expected):
            await task

    serving(main, root, uploads=True, quota=10_000_000)
    assert os.listdir(root) == []


def test_cancelled_at_any_turn(root: Path) -> None:
    """Cancelled after any number of turns, the file is complete or absent, and no part is left."""

    async def main(service: FileService) -> None:
        for turns in range(60):
            task = asyncio.ensure_future(service.files.store(f"/{turns}", chunks(b"x" * 1000)))
            for _ in range(turns):
                await asyncio.sleep(0 if turns % 2 else 0.0001)
            task.cancel()
            await asyncio.wait([task])
        assert hidden(root) == []

    serving(main, root, uploads=True)
    assert all(path.stat().st_size == 1000 for path in root.iterdir())


def test_the_size_is_counted(root: Path) -> None:
    async def main(service: FileService) -> None:
        for length, status in ((999, 413), (101, 413), (100, 201)):
            answer = await ask(service, "PUT", f"/{length}", b"x" * min(length, 100), length=length)
            assert answer.status == status
        assert (await ask(service, "PUT", "/lies", b"x" * 101, length=50)).status == 413
        assert (await ask(service, "PUT", "/short", b"x" * 50, length=60)).status == 400
        assert (await ask(service, "PUT", "/long", b"x" * 60, length=50)).status == 400
        assert (await ask(service, "PUT", "/chunked", chunks(DATA))).status == 413

    serving(main, root, uploads=True, max_size=100)
    assert os.listdir(root) == ["100"]


def test_the_quota_holds_for_all_together(root: Path) -> None:
    (root / "before").write_bytes(b"x" * 400_000)

    async def main(service: FileService) -> None:
        statuses = [
            answer.status
            for answer in await asyncio.gather(
                *(ask(service, "PUT", f"/{n}", chunks(b"x" * 100_000)) for n in range(10))
            )
        ]
        assert sorted(statuses) == [201] * 6 + [507] * 4
        assert (await ask(service, "PUT", "/more", b"x")).status == 507
        assert (await ask(service, "DELETE", "/before")).status == 204
        assert (await ask(service, "PUT", "/more", b"x" * 300_000)).status == 201
        assert (await ask(service, "PUT", "/more", b"x" * 100_001)).status == 507
        with pytest.raises(HTTPException, match="quota"):
            await service.files.check_space("/x", 100_001)
        await service.files.check_space("/x", 100_000)

    serving(main, root, uploads=True, quota=1_000_000)
    assert hidden(root) == []


def test_a_replaced_file_counts_once(root: Path) -> None:
    async def main(service: FileService) -> None:
        for _ in range(5):
            assert (await ask(service, "PUT", "/file", b"x" * 400)).status in (201, 204)
        fields = {"destination": "/file", "overwrite": "T"}
        for _ in range(5):
            assert (await ask(service, "PUT", "/other", b"x" * 400)).status == 201
            assert (await ask(service, "MOVE", "/other", **fields)).status == 204

    serving(main, root, uploads=True, overwrite=True, quota=1000)


def test_the_disk_is_not_filled(root: Path) -> None:
    disk = os.statvfs(root)

    async def main(service: FileService) -> None:
        assert (await ask(service, "PUT", "/file", b"x")).status == 507
        assert (await ask(service, "PUT", "/file", chunks(b"x"))).status == 507

    async def little(service: FileService) -> None:
        answer = await ask(service, "PUT", "/file", b"x", length=disk.f_blocks * disk.f_frsize)
        assert answer.status == 507
        assert (await ask(service, "PUT", "/file", b"x")).status == 201

    serving(main, root, uploads=True, disk_floor=disk.f_blocks * disk.f_frsize)
    assert os.listdir(root) == []
    serving(little, root, uploads=True, disk_floor=0)


def test_a_full_disk_is_507(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: Any) -> int:
        raise OSError(28, "No space left on device")

    async def main(service: FileService) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(os, "writev", full)
            answer = await ask(service, "PUT", "/file", chunks(DATA))
        assert (answer.status, answer.body) == (507, b"The disk is full.\n")

    serving(main, root, uploads=True)
    assert os.listdir(root) == []


def test_a_disk_that_fails_is_500_and_in_the_log(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    async def main(service: FileService) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", broken)
            answer = await ask(service, "PUT", "/file", b"1")
        assert (answer.status, answer.body) == (500, b"The operation failed: Input/output error.\n")

    serving(main, root, uploads=True)
    assert os.listdir(root) == []
    assert "PUT /file: The operation failed: Input/output error." in caplog.text


def test_a_client_that_goes_is_not_answered(root: Path) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"1"
        raise ConnectionResetError("gone")

    async def main(service: FileService) -> None:
        with pytest.raises(ConnectionResetError):
            await ask(service, "PUT", "/file", body())

    serving(main, root, uploads=True)
    assert os.listdir(root) == []


def digests(data: bytes) -> dict[str, str]:
    digest = hashlib.sha256(data).digest()
    text = base64.b64encode(digest).decode()
    return {
        "x_checksum_sha256": digest.hex(),
        "repr_digest": f"md5=:AAAA:, sha-256=:{text}:",
        "content_digest": f"sha-256=:{text}:",
    }


@pytest.mark.parametrize("name", ["x_checksum_sha256", "repr_digest", "content_digest"])
def test_checksums(root: Path, name: str) -> None:
    async def main(service: FileService) -> None:
        right, wrong = digests(DATA)[name], digests(b"other")[name]
        assert (await ask(service, "PUT", "/right", DATA, **{name: right})).status == 201
        answer = await ask(service, "PUT", "/wrong", DATA, **{name: wrong})
        assert (answer.status, b"SHA-256" in answer.body) == (400, True)
        for text in ("zz", "12", "sha-256=:AAAA:", "sha-256=:?:"):
            answer = await ask(service, "PUT", "/bad", DATA, **{name: text})
            known = name.startswith("x_") or text.startswith("sha")
            assert answer.status == (400 if known else 201)
            await ask(service, "DELETE", "/bad")
        both = {**digests(DATA), name: wrong}
        assert (await ask(service, "PUT", "/both", DATA, **both)).status == 400

    serving(main, root, uploads=True)
    assert os.listdir(root) == ["right"]


def test_what_cannot_be_put(root: Path) -> None:
    async def main(service: FileService) -> None:
        for path, fields, status in (
            ("/missing/file", {}, 409),
            ("/", {}, 409),
            ("/-/file", {}, 404),
            ("/-", {}, 404),
            ("/file", {"content_range": "bytes 0-1/5"}, 400),
            ("/file", {"content_encoding": "gzip"}, 415),
            ("/file", {"origin": "https://evil.example", "host": "localhost:1"}, 403),
            ("/file", {"sec_fetch_site": "cross-site"}, 403),
        ):
            assert (await ask(service, "PUT", path, b"x", **fields)).status == status
        fields = {"origin": "http://localhost:1", "host": "localhost:1"}
        answer = await ask(service, "PUT", "/file", b"x", sec_fetch_site="same-origin", **fields)
        assert answer.status == 201
        answer = await ask(service, "PATCH", "/file", b"x")
        assert (answer.status, "PUT" in answer.headers.get("allow")) == (405, True)

    serving(main, root, uploads=True)


def form(*parts: tuple[str, bytes], boundary: str = "xX--x") -> bytes:
    """As a browser sends it: (what follows form-data, content)."""
    begun = "".join
    out = b""
    for disposition, content in parts:
        head = begun([f"--{boundary}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n"])
        out += head.encode() + content + b"\r\n"
    return out + f"--{boundary}--\r\n".encode()


FORM = {"content_type": "multipart/form-data; boundary=xX--x"}


@pytest.mark.parametrize("size", [1, 7, 1000, 1 << 20])
def test_a_form_stores_its_files(root: Path, size: int) -> None:
    content = b"\r\n--xX-\r\n--xX--" + DATA[: 3000 if size < 1000 else 2_500_000] + b"\r\n--xX--"
    body = form(
        ('name="comment"', b"no file"),
        ('name="f"; filename="one"', content),
        ('name="f"; filename=""', b""),
        ('name="f"; filename="t%22w\\"o é.txt"', b""),
        ("name=f; filename=three", b"3"),
    )

    async def main(service: FileService) -> None:
        answer = await ask(service, "POST", "/", chunks(body + b"epilogue", size), **FORM)
        assert answer.status == 201
        stored = json.loads(answer.body)["stored"]
        assert [each["name"] for each in stored] == ["one", 't"w"o é.txt', "three"]
        assert all(each["created"] for each in stored)

    serving(main, root, uploads=True)
    assert {path.name: path.read_bytes() for path in root.iterdir()} == {
        "one": content,
        't"w"o é.txt': b"",
        "three": b"3",
    }


def test_a_form_that_is_wrong(root: Path) -> None:
    (root / "there").touch()
    whole = form(('name="f"; filename="file"', b"content"))

    async def main(service: FileService) -> None:
        for body in (whole[:-6], whole[:50], whole[:8], b"", b"nonsense"):
            assert (await ask(service, "POST", "/", body, **FORM)).status == 400
        for name in ("../x", "a/b", "a\\b", "..", ".noria-x", "x" * 256, "a%0Ab"):
            body = form((f'name="f"; filename="{name}"', b""))
            assert (await ask(service, "POST", "/", body, **FORM)).status in (400, 403)
        assert (await ask(service, "POST", "/", form(), **FORM)).status == 400
        for kind, status in (
            ("multipart/form-data", 400),
            ("multipart/form-data; boundary=" + "x" * 71, 400),
            ("application/x-www-form-urlencoded", 415),
            ("", 415),
        ):
            assert (await ask(service, "POST", "/", whole, content_type=kind)).status == status
        long = form((f'name="{"x" * 10_000}"; filename="file"', b""))
        assert (await ask(service, "POST", "/", long, **FORM)).status == 400
        assert (await ask(service, "POST", "/there", whole, **FORM)).status == 405
        assert (await ask(service, "POST", "/missing/", whole, **FORM)).status == 409
        assert os.listdir(root) == ["there"]
        body = form(('filename="first"', b"1"), ('filename="there"', b"2"))
        answer = await ask(service, "POST", "/", body, **FORM)
        assert answer.status == 409
        assert b"there: " in answer.body
        assert b"Files stored before the error: first." in answer.body
        page = await ask(service, "POST", "/", whole, accept="text/html", **FORM)
        assert (page.status, page.headers.get("location")) == (303, "/")

    serving(main, root, uploads=True)
    assert (root / "there").read_bytes() == b""


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("way", ["put", "form"])
def test_conditions_hold_before_the_first_byte_and_at_the_end(
    root: Path, way: str, overwrite: bool
) -> None:
    there = root / "file"

    async def send(service: FileService, body: AsyncIterator[bytes], **fields: str) -> int:
        if way == "put":
            return (await ask(service, "PUT", "/file", body, **fields)).status

        async def framed() -> AsyncIterator[bytes]:
            yield form(('name="f"; filename="file"', b"")).partition(b"\r\n--xX--x--")[0]
            async for chunk in body:
                yield chunk
            yield b"\r\n--xX--x--\r\n"

        return (await ask(service, "POST", "/", framed(), **FORM, **fields)).status

    async def main(service: FileService) -> None:
        async def meanwhile(content: bytes) -> AsyncIterator[bytes]:
            yield b"1"
            there.write_bytes(content)
            yield b"2"

        async def never() -> AsyncIterator[bytes]:
            raise AssertionError("it was clear before the first byte")
            yield b""

        # It is created or changed during the upload.
        assert await send(service, meanwhile(b"mine"), if_none_match="*") == 412
        assert there.read_bytes() == b"mine"
        tag = (await ask(service, "GET", "/file")).headers.get("etag")
        assert await send(service, meanwhile(b"other"), if_match=tag) == 412
        assert there.read_bytes() == b"other"
        tag = (await ask(service, "GET", "/file")).headers.get("etag")
        body = never if way == "put" else lambda: chunks(b"x")
        assert await send(service, body(), if_none_match="*") == 412
        assert await send(service, body(), if_none_match=tag) == 412
        assert await send(service, body(), if_match='"other"') == 412
        assert await send(service, body(), if_match="W/" + tag) == 412
        if not overwrite:
            assert await send(service, body()) == 409
            assert await send(service, body(), if_match="*") == 409
        assert there.read_bytes() == b"other"
        assert await send(service, chunks(b"x"), if_match=f'"other", {tag}') in (201, 204)
        assert there.read_bytes() == b"x"

    serving(main, root, uploads=True, overwrite=overwrite)
    assert hidden(root) == []


def test_removing(root: Path) -> None:
    (root / "file").write_bytes(b"1")
    (root / "d" / "e").mkdir(parents=True)
    changed: list[str] = []

    async def main(service: FileService) -> None:
        service.files.on_change.append(lambda change: changed.extend(change.directories))
        assert (await ask(service, "DELETE", "/missing")).status == 404
        assert (await ask(service, "DELETE", "/file/")).status == 404
        assert (await ask(service, "DELETE", "/file", if_match='"x"')).status == 412
        assert (await ask(service, "DELETE", "/")).status == 403
        answer = await ask(service, "DELETE", "/d/")
        assert (answer.status, answer.body) == (409, b"The directory is not empty.\n")
        tag = (await ask(service, "GET", "/file")).headers.get("etag")
        assert (await ask(service, "DELETE", "/file", if_match=tag)).status == 204
        left = root / "d" / "e" / ".noria-0.part"  # left by a killed process
        left.touch()
        assert (await ask(service, "DELETE", "/d/e/")).status == 409
        os.utime(left, (1, 1))
        assert (await ask(service, "DELETE", "/d/e/")).status == 204
        assert (await ask(service, "DELETE", "/d")).status == 204

    serving(main, root, uploads=True)
    assert os.listdir(root) == []
    assert changed == ["/", "/d/", "/"]


def test_making_directories(root: Path) -> None:
    async def main(service: FileService) -> None:
        answer = await ask(service, "MKCOL", "/d é")
        assert (answer.status, answer.headers.get("location")) == (201, "/d%20%C3%A9/")
        assert (await ask(service, "MKCOL", "/d é/e/")).status == 201
        assert (await ask(service, "MKCOL", "/d é")).status == 405
        assert (await ask(service, "MKCOL", "/")).status == 405
        assert (await ask(service, "MKCOL", "/x/y")).status == 409
        assert (await ask(service, "MKCOL", "/x", b"body")).status == 415

    serving(main, root, uploads=True)
    assert (root / "d é" / "e").is_dir()


@pytest.mark.parametrize("renameat2", [True, False])
def test_moving(root: Path, renameat2: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not renameat2:
        monkeypatch.setattr(syscalls, "_renameat2", None)
    (root / "file").write_bytes(b"1")
    (root / "other").write_bytes(b"2")
    (root / "d" / "e").mkdir(parents=True)
    changed: list[str] = []

    async def move(service: FileService, path: str, to: str, **fields: str) -> int:
        return (await ask(service, "MOVE", path, destination=to, **fields)).status

    async def main(service: FileService) -> None:
        assert await move(service, "/file", "/other") == 412
        assert await move(service, "/file", "/other", overwrite="T") == 412
        assert await move(service, "/missing", "/new") == 404
        assert await move(service, "/file", "/x/new") == 409
        assert await move(service, "/file", "") == 400
        assert await move(service, "/file", "/a?b") == 400
        assert await move(service, "/file", "/%ff") == 400
        assert await move(service, "/file", "http://[/new") == 400
        assert await move(service, "/file", "http://elsewhere/new", host="here:1") == 502
        assert await move(service, "/d", "/d/e/d") == 409
        assert await move(service, "/d", "/d") == 409
        assert await move(service, "/", "/new") in (403, 409)
        assert await move(service, "/file", "/-/new") == 403
        assert await move(service, "/file", "/..%2fnew") == 400
        assert changed == []
        assert await move(service, "/file", "http://here:1/d/e/n%20w", host="here:1") == 201
        assert await move(service, "/d/e/", "/e") == 201

    async def overwriting(service: FileService) -> None:
        assert await move(service, "/other", "/e/n%20w") == 412
        assert await move(service, "/other", "/e/n%20w", overwrite="F") == 412
        assert await move(service, "/other", "/e", overwrite="T") == 409
        assert await move(service, "/e", "/other", overwrite="T") == 409
        assert await move(service, "/other", "/e/n%20w", overwrite="T") == 204

    async def watched(service: FileService) -> None:
        service.files.on_change.append(lambda change: changed.extend(change.directories))
        await main(service)

    serving(watched, root, uploads=True)
    assert (root / "e" / "n w").read_bytes() == b"1"
    assert changed == ["/", "/d/e/", "/d/", "/"]
    serving(overwriting, root, uploads=True, overwrite=True)
    assert (root / "e" / "n w").read_bytes() == b"2"


@pytest.mark.parametrize("renameat2", [True, False])
def test_a_new_name_takes_nothing(
    tmp_path: Path, renameat2: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files, directories and links are moved to each of them: the target always exists."""
    if not renameat2:
        monkeypatch.setattr(syscalls, "_renameat2", None)
    for side in ("from", "to"):
        (tmp_path / side / "directory").mkdir(parents=True)
        (tmp_path / side / "file").write_text(side)
        (tmp_path / side / "link").symlink_to("nowhere")
    source, target = (os.open(tmp_path / side, os.O_RDONLY) for side in ("from", "to"))
    for name in ("directory", "file", "link"):
        for other in ("directory", "file", "link"):
            with pytest.raises(FileExistsError):
                syscalls.rename_new(source, name, target, other)
        syscalls.rename_new(source, name, target, f"new-{name}")
    os.close(source)
    os.close(target)
    assert os.listdir(tmp_path / "from") == []
    assert (tmp_path / "to" / "file").read_text() == "to"
    assert len(os.listdir(tmp_path / "to")) == 6


def test_storing_with_the_directories_above(root: Path) -> None:
    changed: list[str] = []

    async def main(service: FileService) -> None:
        service.files.on_change.append(lambda change: changed.extend(change.directories))
        assert (await service.files.store("/a/b/c", chunks(b"1"), parents=True))[0]
        assert (await service.files.store("/a/b/d", chunks(b"1"), parents=True))[0]
        with pytest.raises(HTTPException):
            await service.files.store("/a/../b", chunks(b"1"), parents=True)
        with pytest.raises(HTTPException):
            await service.files.store("/a/b/c/d", chunks(b"1"), parents=True)

    serving(main, root, uploads=True)
    assert changed == ["/", "/a/", "/a/b/", "/a/b/"]
    assert sorted(os.listdir(root / "a" / "b")) == ["c", "d"]


def test_adopting_a_file_that_is_there_already(root: Path) -> None:
    (root / ".noria-uploads").mkdir()
    (root / "old").write_bytes(b"old")
    (root / ".noria-uploads" / "link").symlink_to("../../secret")

    async def main(service: FileService) -> None:
        def upload() -> None:
            (root / ".noria-uploads" / "1").write_bytes(DATA)

        upload()
        new, tag = await service.files.store_existing(".noria-uploads/1", "/d/new", parents=True)
        assert new
        got = await ask(service, "GET", "/d/new")
        assert (got.body, got.headers.get("etag")) == (DATA, tag)
        upload()
        with pytest.raises(HTTPException) as caught:
            await service.files.store_existing(".noria-uploads/1", "/old")
        assert caught.value.status == 409
        for source in (".noria-uploads/link", ".noria-uploads/missing"):
            with pytest.raises(HTTPException):
                await service.files.store_existing(source, "/x")
        tag = (await ask(service, "GET", "/old")).headers.get("etag")
        assert not (await service.files.store_existing(".noria-uploads/1", "/old", if_match=tag))[0]
        assert (root / "old").read_bytes() == DATA

    serving(main, root, uploads=True)


def test_what_a_killed_process_left_is_swept(root: Path) -> None:
    (root / "d").mkdir()
    old = time.time() - 2 * stale_files.STALE_AFTER
    for name in (".noria-1.part", "d/.noria-2.part", ".noria-other", "file.part"):
        (root / name).touch()
        os.utime(root / name, (old, old))
    (root / ".noria-new.part").touch()

    async def main(service: FileService) -> None:
        assert await service.files.remove_stale() == 2

    serving(main, root, uploads=True)
    left = sorted(path.name for path in root.rglob("*") if path.is_file())
    assert left == [".noria-new.part", ".noria-other", "file.part"]


def test_what_is_acknowledged_was_synced(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is synced before it is renamed, and the directory after that (fsync(2))."""
    done: list[tuple[str, str]] = []
    fsync, rename = os.fsync, syscalls.rename_new

    def seen_fsync(fd: int) -> None:
        fsync(fd)
        done.append(("fsync", os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))[:7]))

    def seen_rename(*arguments: Any) -> None:
        rename(*arguments)
        done.append(("rename", arguments[3]))

    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(syscalls, "rename_new", seen_rename)

    async def main(service: FileService) -> None:
        await ask(service, "PUT", "/file", b"1")
        assert done == [("fsync", ".noria-"), ("rename", "file"), ("fsync", "root")]
        done.clear()
        await ask(service, "MOVE", "/file", destination="/new")
        assert done == [("rename", "new"), ("fsync", "root"), ("fsync", "root")]
        for method, path in (("DELETE", "/new"), ("MKCOL", "/d")):
            done.clear()
            await ask(service, method, path)
            assert done == [("fsync", "root")]

    serving(main, root, uploads=True)


def test_the_loop_runs_while_a_disk_is_slow(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fsync does not return before the loop has served another request."""
    loop_went_on = asyncio.Event()
    fsync = os.fsync

    def slow(fd: int) -> None:
        until = time.monotonic() + 10
        while not loop_went_on.is_set() and time.monotonic() < until:
            time.sleep(0.001)
        assert loop_went_on.is_set()
        fsync(fd)

    async def main(service: FileService) -> None:
        (root / "there").write_bytes(b"1")
        monkeypatch.setattr(os, "fsync", slow)
        task = asyncio.ensure_future(ask(service, "PUT", "/file", DATA))
        while not hidden(root):
            await asyncio.sleep(0)
        assert (await ask(service, "GET", "/there")).body == b"1"
        loop_went_on.set()
        assert (await task).status == 201
        monkeypatch.undo()

    serving(main, root, uploads=True)


def test_the_server_s_own_paths(root: Path) -> None:
    async def main(service: FileService) -> None:
        request = Request("GET", "/-/uploads/", Headers())
        assert (await service.handle(request)).status == 404

    serving(main, root)


def test_a_recount_does_not_delay_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(bytes(100))
    root = Root(tmp_path)
    quota = Quota(root, 1000)
    walking, proceed = threading.Event(), threading.Event()
    walk = quota._sum_sizes

    def slow() -> int:
        used = walk()
        walking.set()
        assert proceed.wait(20)
        return used

    monkeypatch.setattr(quota, "_sum_sizes", slow)
    with ThreadPoolExecutor() as threads:
        # The first total is needed: other threads wait for it.
        first, second = (threads.submit(quota.check, size) for size in (900, 901))
        assert walking.wait(20)
        assert not first.done()
        assert not second.done()
        proceed.set()
        first.result(20)
        with pytest.raises(HTTPException, match="quota"):
            second.result(20)
        # Later ones are not, and files stored during a count are included.
        monkeypatch.setattr("noria.fileserver.quota.RECOUNT_INTERVAL", 0.0)
        walking.clear()
        proceed.clear()
        counting = threads.submit(quota.count)
        assert walking.wait(20)
        quota.reserve(500)
        quota.release(500)
        assert not counting.done()
        proceed.set()
        counting.result(20)
        monkeypatch.setattr("noria.fileserver.quota.RECOUNT_INTERVAL", 60.0)
        with pytest.raises(HTTPException, match="quota"):
            quota.check(401)
        quota.check(400)
    quota.close()
    root.close()


def test_what_is_stored_as_a_count_begins_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Root(tmp_path)
    quota = Quota(root, 1000)
    quota.check(0)
    monkeypatch.setattr("noria.fileserver.quota.RECOUNT_INTERVAL", 0.0)
    due, calls = quota._is_due, []

    with ThreadPoolExecutor() as threads:

        def between() -> bool:
            answer = due()
            calls.append(answer)
            if len(calls) == 2:  # another upload begins right after the last check
                with contextlib.suppress(TimeoutError):
                    threads.submit(quota.reserve, 600).result(0.2)
            return answer

        monkeypatch.setattr(quota, "_is_due", between)
        quota.count()
    assert quota.used == 600
    quota.close()
    root.close()


def test_several_processes_have_one_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("noria.fileserver.quota.RECOUNT_INTERVAL", 0.0)
    shared = os.memfd_create("of the test")
    ready_reader, ready_writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        other = Quota(Root(tmp_path), 1000, shared)
        other.reserve(600)  # an upload in progress when the process is killed
        os.write(ready_writer, b".")
        time.sleep(60)
        os._exit(0)
    assert os.read(ready_reader, 1) == b"."
    root = Root(tmp_path)
    quota = Quota(root, 1000, shared)
    with pytest.raises(HTTPException, match="quota"):
        quota.reserve(401)
    quota.reserve(400)
    quota.release(400, 400)
    quota.count()  # not while another process has an upload that is not complete on disk
    assert quota.used == 600
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    quota.count()
    assert quota.used == 0
    quota.close()
    root.close()
    for fd in (shared, ready_reader, ready_writer):
        os.close(fd)


def test_threads_and_processes_that_wait_for_each_other(tmp_path: Path) -> None:
    """fcntl(2) may report a deadlock (EDEADLK), as it does not distinguish threads."""
    shared = os.memfd_create("of the test")
    pid = os.fork()
    quota = Quota(Root(tmp_path), 10**9, shared)

    def work() -> None:
        for _ in range(300):
            quota.reserve(1)
            quota.release(1)

    status = 1
    try:
        with ThreadPoolExecutor(4) as threads:
            for done in [threads.submit(work) for _ in range(4)]:
                done.result(30)
        status = 0
    finally:
        if pid == 0:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert quota.used == 2 * 4 * 300
    quota.root.close()
    quota.close()
    os.close(shared)
