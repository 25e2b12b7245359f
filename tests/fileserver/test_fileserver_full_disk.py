"""A disk that becomes full in the middle of uploads: a small file system, mounted for the test."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from support.running import environment

pytest.importorskip("httptools")

MOUNT = 'mount -t tmpfs -o size=4m,nr_inodes=40 none disk && exec "$@"'

COMMON = """
    import asyncio, base64, contextlib, hashlib, os, random, sys
    from pathlib import Path

    import noria
    from noria.fileserver.app import FileServerApp
    from noria.fileserver.options import ServerOptions
    from noria.fileserver.service import FileService
    from test_fileserver_tus import Client, encoded

    DISK = Path("disk")
    DATA = random.Random(1).randbytes(6 << 20)  # more than fits on the disk
    HALF = DATA[: 3 << 20]
    QUOTA = 1 << 30

    @contextlib.asynccontextmanager
    async def serving():
        service = FileService(DISK, uploads=True, overwrite=True, quota=QUOTA, disk_floor=0)
        server = FileServerApp(service, ServerOptions(directory="disk", upload=True))
        loop = asyncio.get_running_loop()
        listening = await loop.create_server(server.protocol_factory, "127.0.0.1", 0)
        server.port = listening.sockets[0].getsockname()[1]
        try:
            yield server
        finally:
            listening.close()
            await server.state.drain(0)
            server.tus.stop()
            await listening.wait_closed()
            service.close()

    @contextlib.asynccontextmanager
    async def client(server):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        try:
            yield Client(reader, writer, server)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def ask(server, *request, **fields):
        async with client(server) as one:
            return await one.ask(*request, **fields)

    def left():
        return sorted(str(each.relative_to(DISK)) for each in DISK.rglob("*") if each.is_file())

    def free():
        status = os.statvfs(DISK)
        return status.f_bavail * status.f_frsize

    def counted(server):
        size = sum(each.stat().st_size for each in DISK.rglob("*") if each.is_file())
        return server.service.files.quota.used, size
"""

FULL = """
    async def put(server):
        room = free()
        digest = "sha-256=:AAAA" + "A" * 39 + "=:"
        plain = {}
        # Chunked: the size is unknown, so the disk becomes full in the middle.
        for fields in (plain, {"Repr_Digest": digest}):
            async with client(server) as one:
                lines = [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
                head = ["PUT /new HTTP/1.1", "Host: a", "Transfer-Encoding: chunked", *lines]
                one.writer.write("\\r\\n".join([*head, "\\r\\n"]).encode())
                for at in range(0, len(DATA), 100_000):
                    piece = DATA[at : at + 100_000]
                    one.writer.write(b"%x\\r\\n%b\\r\\n" % (len(piece), piece))
                one.writer.write(b"0\\r\\n\\r\\n")
                assert (await one.answer("PUT"))[0] == 507
            assert left() == [], left()
            assert free() == room
        # With a Content-Length it is refused at once, unless other files fill the disk meanwhile.
        assert (await ask(server, "PUT", "/new", DATA))[0] == 507
        async with client(server) as one:
            one.send("PUT", "/new", HALF[: 1 << 20], length=len(HALF))
            while not any(each.name.startswith(".noria-") for each in DISK.iterdir()):
                await asyncio.sleep(0.001)
            (DISK / "other").write_bytes(bytes(free() - (1 << 20)))
            one.writer.write(HALF[1 << 20 :])
            status, fields, _ = await one.answer("PUT")
            assert status == 507, status
        assert left() == ["other"], left()
        (DISK / "other").unlink()
        assert free() == room
        # Once there is space again, the same request succeeds.
        assert (await ask(server, "PUT", "/new", HALF))[0] == 201
        assert (DISK / "new").read_bytes() == HALF
        # A failed upload does not change the file that it would replace.
        assert (await ask(server, "PUT", "/new", DATA[: 2 << 20]))[0] == 507
        assert (DISK / "new").read_bytes() == HALF
        assert (await ask(server, "DELETE", "/new"))[0] == 204

    async def form(server):
        head = b'--b\\r\\nContent-Disposition: form-data; name="f"; filename="%b"\\r\\n\\r\\n'
        body = head % b"one" + b"1" + b"\\r\\n" + head % b"two" + DATA + b"\\r\\n--b--\\r\\n"
        kind = "multipart/form-data; boundary=b"
        status, _, text = await ask(server, "POST", "/", body, Content_Type=kind)
        assert (status, "Files stored before the error: one" in text) == (507, True), (status, text)
        assert left() == ["one"]
        assert (await ask(server, "DELETE", "/one"))[0] == 204

    async def tus(server):
        async with client(server) as one:
            # A size that does not fit is refused at once.
            status, _, _ = await one.ask(
                "POST", "/-/uploads/", Upload_Length=len(DATA),
                Upload_Metadata=encoded(filename="x"),
            )
            assert status == 507
            place = await one.create(len(HALF), encoded(filename="x"))
        (DISK / "other").write_bytes(bytes(free() - (1 << 20)))
        async with client(server) as one:
            one.send("PATCH", place, HALF, Upload_Offset=0,
                     Content_Type="application/offset+octet-stream")
            status, _, _ = await one.answer("PATCH")
            assert status == 507, status
        async with client(server) as one:
            offset = await one.offset(place)
            upload = place.rpartition("/")[2]
            assert offset == (DISK / ".noria-uploads" / (upload + ".data")).stat().st_size
            (DISK / "other").unlink()
            status, fields, _ = await one.patch(place, offset, HALF[offset:])
            assert (status, fields["upload-offset"]) == (204, str(len(HALF)))
        assert (DISK / "x").read_bytes() == HALF
        assert (await ask(server, "DELETE", place))[0] == 204
        # With a checksum, incomplete data is not kept.
        assert (await ask(server, "DELETE", "/x"))[0] == 204
        async with client(server) as one:
            place = await one.create(len(HALF), encoded(filename="x"))
        (DISK / "other").write_bytes(bytes(free() - (1 << 20)))
        digest = base64.b64encode(hashlib.sha256(HALF).digest()).decode()
        async with client(server) as one:
            status, _, _ = await one.patch(place, 0, HALF, Upload_Checksum="sha256 " + digest)
            assert status == 507
        (DISK / "other").unlink()
        async with client(server) as one:
            offset = await one.offset(place)
            assert offset == 0, offset
            status, fields, _ = await one.patch(place, 0, HALF, Upload_Checksum="sha256 " + digest)
            assert status == 204
        assert (DISK / "x").read_bytes() == HALF
        assert (await ask(server, "DELETE", "/x"))[0] == 204
        assert (await ask(server, "DELETE", place))[0] == 204
        assert left() == [], left()

    async def no_room_for_facts(server):
        \"\"\"No room for even the file that says what the upload is.\"\"\"
        (DISK / "other").write_bytes(bytes(free()))
        status, _, _ = await ask(
            server, "POST", "/-/uploads/", Upload_Length=0, Upload_Metadata=encoded(filename="x")
        )
        assert status == 507, status
        assert left() == ["other"], left()
        (DISK / "other").unlink()

    async def join(server):
        piece = DATA[: 1200 << 10]
        places = []
        async with client(server) as one:
            for _ in range(2):
                place = await one.create(len(piece), "", Upload_Concat="partial")
                assert (await one.patch(place, 0, piece))[0] == 204
                places.append(place)
            fields = {"Upload_Concat": "final;" + " ".join(places),
                      "Upload_Metadata": encoded(filename="joined")}
            before = left()
            status, _, text = await one.ask("POST", "/-/uploads/", **fields)
            assert status == 507, (status, text)
            assert left() == before, left()
            for place in places:
                assert await one.offset(place) == len(piece)
                assert (await one.ask("DELETE", place))[0] == 204
        assert left() == []

    async def inodes(server):
        names = []
        while True:
            status, _, _ = await ask(server, "MKCOL", f"/d{len(names)}")
            if status != 201:
                break
            names.append(f"/d{len(names)}")
        assert status == 507, status
        assert (await ask(server, "PUT", "/x", b"1"))[0] == 507
        status, _, _ = await ask(
            server, "POST", "/-/uploads/", Upload_Length=0, Upload_Metadata=encoded(filename="x")
        )
        assert status == 507
        # One inode: for the bytes of an upload, not for its info.
        assert (await ask(server, "DELETE", names.pop()))[0] == 204
        status, _, _ = await ask(
            server, "POST", "/-/uploads/", Upload_Length=0, Upload_Metadata=encoded(filename="x")
        )
        assert status == 507
        assert left() == [], left()
        for name in names:
            assert (await ask(server, "DELETE", name))[0] == 204
"""

LIMITED = """
    import resource

    LIMIT = 1 << 20
    SMALL = DATA[: LIMIT - 1]

    async def too_large(server):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, hard))
        assert (await ask(server, "PUT", "/new", HALF))[0] == 413
        async with client(server) as one:
            one.writer.write(b"PUT /new HTTP/1.1\\r\\nHost: a\\r\\n"
                             b"Transfer-Encoding: chunked\\r\\n\\r\\n")
            one.writer.write(b"%x\\r\\n%b\\r\\n0\\r\\n\\r\\n" % (len(HALF), HALF))
            assert (await one.answer("PUT"))[0] == 413
        assert left() == [], left()
        assert (await ask(server, "PUT", "/new", SMALL))[0] == 201
        assert (await ask(server, "PUT", "/new", HALF))[0] == 413
        assert (DISK / "new").read_bytes() == SMALL
        assert (await ask(server, "DELETE", "/new"))[0] == 204
        async with client(server) as one:
            place = await one.create(len(HALF), encoded(filename="x"))
        async with client(server) as one:
            assert (await one.patch(place, 0, HALF))[0] == 413
        async with client(server) as one:
            offset = await one.offset(place)
            assert offset <= LIMIT
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            assert (await one.patch(place, offset, HALF[offset:]))[0] == 204
        assert (DISK / "x").read_bytes() == HALF
        assert (await ask(server, "DELETE", place))[0] == 204

    async def no_descriptors(server):
        (DISK / "d").mkdir()
        await ask(server, "PUT", "/file", HALF)
        await ask(server, "PUT", "/first", HALF)
        place = await uploading(server)
        async with client(server) as one:
            # The connection is open, and no other descriptor is free.
            await one.ask("GET", "/d/")
            limits = resource.getrlimit(resource.RLIMIT_NOFILE)
            held = []
            highest = max(map(int, os.listdir("/proc/self/fd")))
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, limits[1]))
            with contextlib.suppress(OSError):
                while True:
                    held.append(os.open("/dev/null", os.O_RDONLY))
            try:
                for request in [
                    ("GET", "/file"), ("GET", "/d/"), ("GET", "/d"), ("HEAD", "/file"),
                    ("DELETE", "/file"), ("MKCOL", "/new"),
                ]:
                    status, _, text = await one.ask(*request)
                    assert status == 503, (request, status, text)
                status, _, _ = await one.ask("MOVE", "/file", Destination="/moved")
                assert status == 503
                status, _, _ = await one.ask("PUT", "/new", b"1")
                assert status == 503
                status, _, _ = await one.ask(
                    "POST", "/-/uploads/", Upload_Length=1, Upload_Metadata=encoded(filename="y")
                )
                assert status == 503
                assert (await one.ask("HEAD", place))[0] == 503
            finally:
                for fd in held:
                    os.close(fd)
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            assert (await one.ask("HEAD", "/file"))[0] == 200
            assert (await one.ask("PUT", "/new", b"1"))[0] == 201
        async with client(server) as one:
            assert await one.offset(place) == 1
            assert (await one.ask("DELETE", place))[0] == 204
        assert left() == ["file", "first", "new"], left()

    async def uploading(server):
        async with client(server) as one:
            place = await one.create(2, encoded(filename="x"))
            assert (await one.patch(place, 0, b"1"))[0] == 204
        return place
"""

RUN = """
    async def main(name):
        async with serving() as server:
            await asyncio.to_thread(server.service.files.quota.count)  # before others write
            await globals()[name](server)
            used, size = counted(server)
            assert used == size, (used, size)
            assert server.state.active_uploads == 0

    noria.run(main(sys.argv[1]))
"""


@pytest.mark.parametrize("what", ["put", "form", "tus", "no_room_for_facts", "join", "inodes"])
def test_a_disk_that_becomes_full(tmp_path: Path, what: str) -> None:
    (tmp_path / "disk").mkdir()
    namespace = ["unshare", "--map-root-user", "--mount", "sh", "-ec", MOUNT, "sh"]
    try:
        subprocess.run([*namespace, "true"], cwd=tmp_path, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no mounts for this user: {error}")
    done = subprocess.run(
        [*namespace, sys.executable, "-c", textwrap.dedent(COMMON + FULL + RUN), what],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=40,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("what", ["too_large", "no_descriptors"])
def test_a_process_at_its_limits(tmp_path: Path, what: str) -> None:
    """setrlimit(2): RLIMIT_FSIZE has the response of a file system's limit, RLIMIT_NOFILE 503."""
    (tmp_path / "disk").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(COMMON + LIMITED + RUN), what],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=40,
    )
    assert done.returncode == 0, done.stderr
