"""File systems mounted below the served directory: no rename goes from one to another."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from support.running import environment

pytest.importorskip("httptools")

MOUNTS = """
    mount -t tmpfs none mounted && mkdir mounted/below bound-from &&
    mount --bind bound-from bound && exec "$@"
"""

MAIN = """
    import asyncio, os, sys

    import noria
    from support.fileservice import ask
    from noria.http.messages import Headers, HTTPException, Request
    from noria.fileserver.service import FileService
    from noria.fileserver.tus.handler import TusHandler
    from test_fileserver_tus import encoded

    async def create(uploads, directory):
        headers = Headers({
            "Tus-Resumable": "1.0.0", "Upload-Length": "0",
            "Upload-Metadata": encoded(filename="x", relativePath="new/x", directory=directory),
        }.items())
        try:
            return (await uploads.handle(Request("POST", "/-/uploads/", headers), "")).status
        except HTTPException as problem:
            return problem.status

    async def main(native):
        service = FileService(".", uploads=True, overwrite=True, disk_floor=0, native=native)
        uploads = TusHandler(service.files)
        for place in ("/mounted/", "/mounted/below/", "/bound/"):
            assert (await ask(service, "PUT", place + "file", b"1")).status == 201
            assert (await ask(service, "GET", place + "file")).body == b"1"
            moved = await ask(service, "MOVE", place + "file", destination=place + "f")
            assert moved.status == 201
            # Between the file systems in both directions, to a new name and over a file.
            pairs = ((place + "f", "/f"), ("/here", place + "h"), ("/here", place + "f"))
            for path, to in pairs:
                answer = await ask(service, "MOVE", path, destination=to, overwrite="T")
                assert (answer.status, b"another file system" in answer.body) == (502, True)
            assert (await ask(service, "MOVE", "/d", destination=place + "d")).status == 502
            assert (await ask(service, "DELETE", place + "f")).status == 204
            if native or place != "/bound/":
                assert await create(uploads, place) == 409
                assert not os.path.exists(".noria-uploads")  # refused before it is created
        assert (await ask(service, "DELETE", "/bound")).status == 409  # a mount point is in use
        assert await create(uploads, "/") == 201
        assert os.path.exists("new/x")
        uploads.stop()
        service.close()

    noria.run(main(sys.argv[1] == "openat2"))
"""


@pytest.mark.parametrize("way", ["openat2", "walk"])
def test_mounts_below_the_served_directory(tmp_path: Path, way: str) -> None:
    for name in ("mounted", "bound", "d"):
        (tmp_path / name).mkdir()
    (tmp_path / "here").write_bytes(b"here")
    namespace = ["unshare", "--map-root-user", "--mount", "sh", "-ec", MOUNTS, "sh"]
    try:
        subprocess.run([*namespace, "true"], cwd=tmp_path, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no mounts for this user: {error}")
    (tmp_path / "bound-from").rmdir()
    done = subprocess.run(
        [*namespace, sys.executable, "-c", textwrap.dedent(MAIN), way],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=40,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "here").read_bytes() == b"here"
