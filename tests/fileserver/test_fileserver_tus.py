"""tus 1.0 over raw HTTP, with restarts and crashes of the server."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import threading
import time

import pytest

from support import loops

pytest.importorskip("httptools")

import noria
from noria.fileserver.app import FileServerApp, make_service
from noria.fileserver.options import ServerOptions
from noria.fileserver.tus.fields import destination_of, parse_metadata
from noria.fileserver.tus.upload_store import DIRECTORY, MAX_AGE
from noria.http.messages import HTTPException

KIND = {"Content-Type": "application/offset+octet-stream"}


class Client:
    """One request at a time, over one connection."""

    def __init__(self, reader, writer, server):
        self.reader = reader
        self.writer = writer
        self.server = server

    async def ask(self, method, path, body=b"", length=None, **fields):
        """(status, fields, body); the names of `fields` have "_" for "-"."""
        self.send(method, path, body, length, **fields)
        return await self.answer(method)

    def send(self, method, path, body=b"", length=None, **fields):
        fields.setdefault("Tus_Resumable", "1.0.0")
        fields["Content_Length"] = len(body) if length is None else length
        head = [f"{method} {path} HTTP/1.1", "Host: a"]
        head += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
        self.writer.write("\r\n".join([*head, "\r\n"]).encode() + body)

    async def answer(self, method):
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().splitlines()
        fields = dict(line.lower().split(": ", 1) for line in head[1:-1])
        size = 0 if method == "HEAD" else int(fields.get("content-length", "0"))
        status = int(head[0].split()[1])
        text = await self.reader.readexactly(size) if status != 204 else b""
        return status, fields, text.decode()

    async def create(self, length, metadata="filename bmV3", **more):
        status, fields, text = await self.ask(
            "POST", "/-/uploads/", Upload_Length=length, Upload_Metadata=metadata, **more
        )
        assert status == 201, text
        return fields["location"]

    async def patch(self, place, offset, body, **more):
        return await self.ask(
            "PATCH", place, body, Upload_Offset=offset,
            Content_Type="application/offset+octet-stream", **more,
        )  # fmt: skip

    async def offset(self, place):
        status, fields, _ = await self.ask("HEAD", place)
        return int(fields["upload-offset"]) if status == 200 else status


@contextlib.asynccontextmanager
async def serving(directory, **options):
    options = ServerOptions(directory=str(directory), upload=True, **options)
    server = FileServerApp(make_service(options), options)
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(server.protocol_factory, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    client = Client(*await asyncio.open_connection("127.0.0.1", port), server)
    client.port = port
    try:
        yield client
    finally:
        client.writer.close()
        with contextlib.suppress(ConnectionError):
            await client.writer.wait_closed()
        listening.close()
        await server.state.drain(0)
        server.tus.stop()
        await listening.wait_closed()
        server.service.close()


def encoded(**pairs):
    return ",".join(f"{k} {base64.b64encode(v.encode()).decode()}" for k, v in pairs.items())


def kept(directory):
    place = directory / DIRECTORY
    return sorted(os.listdir(place)) if place.exists() else []


def test_an_upload_in_pieces_survives_a_restart(tmp_path):
    data = secrets.token_bytes(3_000_000)

    async def main():
        async with serving(tmp_path) as client:
            place = await client.create(len(data), encoded(filename="a b.bin", directory="/"))
            assert re.fullmatch(r"/-/uploads/[0-9a-f]{32}", place)
            assert await client.offset(place) == 0
            status, fields, _ = await client.patch(place, 0, data[:1_000_001])
            assert (status, fields["upload-offset"]) == (204, "1000001")
            assert fields["tus-resumable"] == "1.0.0"
            assert "upload-expires" in fields
            assert not (tmp_path / "a b.bin").exists()
        async with serving(tmp_path) as client:
            status, fields, _ = await client.ask("HEAD", place)
            assert (status, fields["upload-offset"]) == (200, "1000001")
            assert fields["upload-length"] == str(len(data))
            assert fields["cache-control"] == "no-store"
            assert fields["upload-metadata"] == encoded(filename="a b.bin", directory="/").lower()
            status, _, text = await client.patch(place, 5, b"x")
            assert status == 409
            assert "1000001" in text
            inode = os.stat(tmp_path / DIRECTORY / f"{place[-32:]}.data").st_ino
            status, fields, _ = await client.patch(place, 1_000_001, data[1_000_001:])
            assert (status, fields["upload-offset"]) == (204, str(len(data)))
            assert (tmp_path / "a b.bin").read_bytes() == data
            assert os.stat(tmp_path / "a b.bin").st_ino == inode  # renamed, not copied
            assert await client.offset(place) == len(data)
            status, fields, _ = await client.patch(place, len(data), b"")
            assert status == 204
            listing = await client.ask("GET", "/", Accept="application/json")
            assert [one["name"] for one in json.loads(listing[2])["entries"]] == ["a b.bin"]
            assert (await client.ask("GET", f"/{DIRECTORY}/"))[0] in (403, 404)

    noria.run(main())


@pytest.mark.parametrize("gone", [True, False])
def test_what_arrived_before_the_connection_was_lost_is_kept(tmp_path, gone):
    async def main():
        async with serving(tmp_path) as client:
            place = await client.create(10)
            lost = Client(*await asyncio.open_connection("127.0.0.1", client.port), None)
            lost.send(
                "PATCH", place, b"", 10, Upload_Offset=0, Expect="100-continue",
                Content_Type="application/offset+octet-stream",
            )  # fmt: skip
            # The handler has locked the upload and waits for the body: before that, the requests
            # of the other connection could be handled first.
            assert (await lost.answer("PATCH"))[0] == 100
            lost.writer.write(b"abcd")
            if gone:
                lost.writer.close()
                await until(client, place, 4)
            # A connection may be lost without a notice to the server: the next request ends the
            # lost one. 423: the disk was too slow for that, and the request is repeated.
            while (refused := await client.patch(place, 9, b"x"))[0] == 423:
                pass
            assert refused[0] == 409
            assert "The upload is at " in refused[2]
            status = 0
            while status != 204:
                offset = await client.offset(place)
                # The lost request may have been ended before it received the bytes.
                assert offset == 4 if gone else offset in (0, 4)
                status = (await client.patch(place, offset, b"abcdefghij"[offset:]))[0]
                assert status in (204, 409, 423)
            with contextlib.suppress(ConnectionError):
                assert gone or await lost.reader.read() == b""
            lost.writer.close()
            assert (tmp_path / "new").read_bytes() == b"abcdefghij"

    async def until(client, place, offset):
        while await client.offset(place) != offset:
            await asyncio.sleep(0.005)

    noria.run(main())


def test_creation_with_upload_and_empty_files(tmp_path):
    async def main():
        async with serving(tmp_path) as client:
            for name, sent, length in (("whole", b"all", 3), ("part", b"so", 9), ("none", b"", 0)):
                status, fields, _ = await client.ask(
                    "POST", "/-/uploads/", sent, Upload_Length=length,
                    Upload_Metadata=encoded(filename=name),
                    Content_Type="application/offset+octet-stream",
                )  # fmt: skip
                assert (status, fields["upload-offset"]) == (201, str(len(sent)))
                assert (tmp_path / name).exists() is (len(sent) == length)
            await client.create(0, encoded(filename="none too"))
            assert (tmp_path / "none too").read_bytes() == b""

    noria.run(main())


@pytest.mark.parametrize("name", ["sha1", "sha256"])
def test_checksums(tmp_path, name):
    def of(data):
        return f"{name} {base64.b64encode(hashlib.new(name, data).digest()).decode()}"

    async def main():
        async with serving(tmp_path) as client:
            place = await client.create(6)
            status, _, _ = await client.patch(place, 0, b"abc", Upload_Checksum=of(b"abc"))
            assert status == 204
            status, _, text = await client.patch(place, 3, b"dXf", Upload_Checksum=of(b"def"))
            assert status == 460
            assert "checksum" in text
            assert await client.offset(place) == 3
            assert (await client.patch(place, 3, b"d", Upload_Checksum="md5 AAAA"))[0] == 400
            assert (await client.patch(place, 3, b"d", Upload_Checksum=f"{name} *"))[0] == 400
            assert (await client.patch(place, 3, b"def", Upload_Checksum=of(b"def")))[0] == 204
            assert (tmp_path / "new").read_bytes() == b"abcdef"

    noria.run(main())


def test_bytes_that_were_not_verified_do_not_count_after_a_crash(tmp_path):
    async def main():
        async with serving(tmp_path) as client:
            place = await client.create(6)
            assert (await client.patch(place, 0, b"ab"))[0] == 204
            lost = Client(*await asyncio.open_connection("127.0.0.1", client.port), None)
            lost.send(
                "PATCH", place, b"XY", 4, Upload_Offset=2, Upload_Checksum="sha1 AAAA",
                Content_Type="application/offset+octet-stream",
            )  # fmt: skip
            await loops.until(lambda: client.server.state.active_uploads)
            lost.writer.close()
            await loops.until(lambda: not client.server.state.active_uploads)
            data = tmp_path / DIRECTORY / f"{place[-32:]}.data"
            while data.read_bytes() != b"abXY" or (await client.patch(place, 9, b""))[0] == 423:
                await asyncio.sleep(0.005)
        async with serving(tmp_path) as client:
            assert await client.offset(place) == 2
            assert (await client.patch(place, 2, b"cdef"))[0] == 204
            assert (tmp_path / "new").read_bytes() == b"abcdef"

    noria.run(main())


def test_a_crash_between_the_last_byte_and_the_rename(tmp_path, monkeypatch):
    async def main():
        async with serving(tmp_path) as client:
            place = await client.create(3)
            with monkeypatch.context() as patched:

                async def full(*args, **kwargs):
                    raise OSError(errno.ENOSPC, "of the test")

                patched.setattr(client.server.service.files, "store_existing", full)
                assert (await client.patch(place, 0, b"abc"))[0] == 507
                assert await client.offset(place) == 507  # not reported as complete
            assert await client.offset(place) == 3
            assert (tmp_path / "new").read_bytes() == b"abc"

    noria.run(main())


def test_termination_and_expiration(tmp_path):
    async def main():
        async with serving(tmp_path) as client:
            place = await client.create(5)
            assert len(kept(tmp_path)) == 2
            assert (await client.ask("DELETE", place))[0] == 204
            assert kept(tmp_path) == []
            assert await client.offset(place) == 404
            assert (await client.patch(place, 0, b"x"))[0] == 404
            old, young = await client.create(5), await client.create(5)
            past = time.time() - MAX_AGE - 10
            for suffix in (".json", ".data"):
                os.utime(tmp_path / DIRECTORY / (old[-32:] + suffix), (past, past))
            client.server.tus.start()
            while await client.offset(old) != 404:
                await asyncio.sleep(0.005)
            assert await client.offset(young) == 0
            done = await client.create(0, encoded(filename="done"))
            assert (await client.ask("DELETE", done))[0] == 204
            assert (tmp_path / "done").exists()

    noria.run(main())


def test_the_directory_stays_open_while_old_uploads_are_looked_for(tmp_path, monkeypatch):
    proceed = threading.Event()

    async def main():
        async with serving(tmp_path) as client:
            await client.create(5)
            uploads = client.server.tus
            listdir = os.listdir

            def slow(place):
                assert proceed.wait(20)
                return listdir(place)

            with monkeypatch.context() as patched:
                patched.setattr(os, "listdir", slow)
                uploads.start()
                uploads.stop()
                try:
                    os.fstat(uploads._store._fd)
                finally:
                    proceed.set()
                await uploads._expiring
            await loops.until(lambda: uploads._store._fd < 0)

    noria.run(main())
    assert len(kept(tmp_path)) == 2


def test_concatenation(tmp_path):
    async def main():
        async with serving(tmp_path) as client:
            parts = []
            for data in (b"abc", b"", b"defg"):
                place = await client.create(len(data), "", Upload_Concat="partial")
                status, fields, _ = await client.patch(place, 0, data)
                assert status == 204
                parts.append(place)
            status, fields, _ = await client.ask("HEAD", parts[0])
            assert fields["upload-concat"] == "partial"
            unfinished = await client.create(9, "", Upload_Concat="partial")
            ordinary = await client.create(9)
            for wrong, status in ((unfinished, 409), (ordinary, 400), ("/-/uploads/none", 404)):
                answer = await client.ask(
                    "POST", "/-/uploads/", Upload_Concat=f"final;{parts[0]} {wrong}",
                    Upload_Metadata=encoded(filename="joined"),
                )  # fmt: skip
                assert answer[0] == status
            status, fields, _ = await client.ask(
                "POST", "/-/uploads/", Upload_Metadata=encoded(filename="joined"),
                Upload_Concat=f"final;{parts[0]} http://a{parts[1]} {parts[2]}",
            )  # fmt: skip
            assert status == 201
            assert (tmp_path / "joined").read_bytes() == b"abcdefg"
            final = fields["location"]
            status, fields, _ = await client.ask("HEAD", final)
            assert fields["upload-length"] == fields["upload-offset"] == "7"
            assert fields["upload-concat"].startswith("final;")
            assert (await client.patch(final, 7, b""))[0] == 403
            assert await client.offset(parts[0]) == 404

    noria.run(main())


def test_folders_are_made_and_files_are_not_overwritten(tmp_path):
    (tmp_path / "there").write_bytes(b"old")
    (tmp_path / "inbox").mkdir()

    async def main():
        async with serving(tmp_path) as client:
            place = await client.create(
                2, encoded(filename="c", relativePath="a/b/c", directory="/inbox/")
            )
            assert (await client.patch(place, 0, b"hi"))[0] == 204
            assert (tmp_path / "inbox/a/b/c").read_bytes() == b"hi"
            there = {"Upload_Length": 3, "Upload_Metadata": encoded(filename="there")}
            assert (await client.ask("POST", "/-/uploads/", **there))[0] == 409
            # It may also be created during the upload.
            place = await client.create(2, encoded(filename="late"))
            (tmp_path / "late").write_bytes(b"mine")
            assert (await client.patch(place, 0, b"hi"))[0] == 409
            assert (tmp_path / "late").read_bytes() == b"mine"
            assert await client.offset(place) == 404
        async with serving(tmp_path, overwrite=True) as client:
            place = await client.create(3, encoded(filename="there"))
            assert (await client.patch(place, 0, b"new"))[0] == 204
            assert (tmp_path / "there").read_bytes() == b"new"

    noria.run(main())


def test_what_is_refused(tmp_path):
    hostile = ["../x", "/", "a/../../x", ".noria-x", "a\\b", "a\0b", "", "x/"]

    async def main():
        async with serving(tmp_path, max_size=100, quota=150) as client:
            new = {"Upload_Metadata": encoded(filename="new")}
            for status, fields in (
                (412, {"Tus_Resumable": "0.2.2", "Upload_Length": 3, **new}),
                (400, new),
                (400, {"Upload_Length": -1, **new}),
                (400, {"Upload_Length": "1e3", **new}),
                (400, {"Upload_Defer_Length": 1, **new}),
                (400, {"Upload_Length": 3}),
                (400, {"Upload_Length": 3, "Upload_Metadata": "filename *"}),
                (400, {"Upload_Length": 3, "Upload_Concat": "some", **new}),
                (413, {"Upload_Length": 101, **new}),
                (403, {"Upload_Length": 3, "Origin": "http://evil", **new}),
            ):
                found, headers, text = await client.ask("POST", "/-/uploads/", **fields)
                assert found == status, (fields, text)
                assert headers["tus-resumable"] == "1.0.0"
            for name in hostile:
                metadata = encoded(relativePath=name, filename=name)
                found, _, text = await client.ask(
                    "POST", "/-/uploads/", Upload_Length=3, Upload_Metadata=metadata
                )
                assert found in (400, 403, 409), (name, text)
            assert kept(tmp_path) == []
            place = await client.create(4)
            assert (await client.ask("PATCH", place, b"x", Upload_Offset=0))[0] == 415
            assert (await client.patch(place, "", b"x"))[0] == 400
            assert (await client.ask("GET", place))[0] == 405
            assert (await client.ask("PUT", "/-/uploads/"))[0] == 405
            assert await client.offset("/-/uploads/../a") == 404
            assert await client.offset("/-/uploads/" + "0" * 32) == 404
            other = await client.ask(
                "POST", place, b"abcd", Upload_Offset=0, X_HTTP_Method_Override="PATCH",
                Content_Type="application/offset+octet-stream",
            )  # fmt: skip
            assert other[0] == 204
            assert (tmp_path / "new").read_bytes() == b"abcd"
            place = await client.create(100, encoded(filename="one"))
            assert (await client.patch(place, 0, b"x" * 100))[0] == 204
            found, _, text = await client.ask(
                "POST", "/-/uploads/", Upload_Length=90, Upload_Metadata=encoded(filename="two")
            )
            assert (found, "quota" in text) == (507, True)
        async with serving(tmp_path) as client:
            place = await client.create(4, encoded(filename="four"))
            assert (await client.patch(place, 0, b"12345"))[0] == 413  # ends the connection

    noria.run(main())


@pytest.mark.parametrize("overwrite", [False, True])
def test_conditions_hold_from_the_creation_to_the_end(tmp_path, overwrite):
    there = tmp_path / "new"

    async def tag(client):
        return (await client.ask("HEAD", "/new"))[1]["etag"]

    async def create(client, **conditions):
        return (await client.ask("POST", "/-/uploads/", Upload_Length=2,
                                 Upload_Metadata="filename bmV3", **conditions))[0]  # fmt: skip

    async def main():
        async with serving(tmp_path, overwrite=overwrite) as client:
            assert await create(client, If_Match="*") == 412  # nothing is there
            late = await client.create(2, If_None_Match="*")
            there.write_bytes(b"mine")
            assert (await client.patch(late, 0, b"hi"))[0] == 412
            assert await create(client, If_None_Match="*") == 412
            assert await create(client, If_None_Match=f"W/{await tag(client)}") == 412
            assert await create(client, If_Match='"other"') == 412
            assert await create(client, If_Match=f"W/{await tag(client)}") == 412
            if not overwrite:
                assert await create(client) == 409
                assert await create(client, If_Match="*") == 409
            changed = await client.create(2, If_Match=await tag(client))
            there.write_bytes(b"mine again")
            assert (await client.patch(changed, 0, b"hi"))[0] == 412
            assert there.read_bytes() == b"mine again"
            assert kept(tmp_path) == []
            named = await client.create(2, If_Match=await tag(client))
        async with serving(tmp_path, overwrite=overwrite) as client:
            assert (await client.patch(named, 0, b"hi"))[0] == 204
            assert there.read_bytes() == b"hi"

    noria.run(main())


def test_conditions_of_a_concatenation(tmp_path, monkeypatch):
    there = tmp_path / "joined"

    async def join(client, **conditions):
        part = await client.create(2, "", Upload_Concat="partial")
        assert (await client.patch(part, 0, b"hi"))[0] == 204
        return (await client.ask("POST", "/-/uploads/", Upload_Metadata=encoded(filename="joined"),
                                 Upload_Concat=f"final;{part}", **conditions))[0]  # fmt: skip

    async def main():
        async with serving(tmp_path, overwrite=True) as client:
            there.write_bytes(b"mine")
            assert await join(client, If_None_Match="*") == 412
            assert await join(client, If_Match='"other"') == 412
            there.unlink()
            uploads = client.server.tus
            joined = uploads._join

            def meanwhile(*arguments):
                joined(*arguments)
                there.write_bytes(b"mine")

            with monkeypatch.context() as patched:
                patched.setattr(uploads, "_join", meanwhile)
                assert await join(client, If_None_Match="*") == 412
            assert there.read_bytes() == b"mine"
            tag = (await client.ask("HEAD", "/joined"))[1]["etag"]
            assert await join(client, If_Match=tag) == 201
            assert there.read_bytes() == b"hi"

    noria.run(main())


def test_options_say_what_is_known(tmp_path):
    async def main():
        async with serving(tmp_path, max_size=1000) as client:
            status, fields, _ = await client.ask("OPTIONS", "/-/uploads/")
            assert status == 204
            assert fields["tus-version"] == "1.0.0"
            assert fields["tus-max-size"] == "1000"
            assert fields["tus-checksum-algorithm"] == "sha1,sha256"
            assert set(fields["tus-extension"].split(",")) == {
                "creation", "creation-with-upload", "checksum", "expiration", "termination",
                "concatenation",
            }  # fmt: skip

    noria.run(main())


def test_metadata():
    assert parse_metadata("a YQ==,b,c Yw==") == {"a": "a", "b": "", "c": "c"}
    assert parse_metadata("") == {}
    assert destination_of(encoded(filename="x", relativePath="null")) == "/x"
    assert destination_of(encoded(name="x", directory="/d/")) == "/d/x"
    for wrong in ("a \x8a", "a *", "a gICA"):
        with pytest.raises(HTTPException, match="not UTF-8 in base64"):
            parse_metadata(wrong)
    with pytest.raises(HTTPException, match="at most 4096 bytes"):
        parse_metadata("a" * 5000)
    with pytest.raises(HTTPException, match="must begin and end"):
        destination_of(encoded(filename="x", directory="d"))
