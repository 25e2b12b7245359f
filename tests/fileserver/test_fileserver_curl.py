"""The file server with curl, a client that was written independently of it."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

pytest.importorskip("click")
pytest.importorskip("httptools")

from noria.fileserver.auth import PasswordHash
from support import loops
from support.running import environment

CURL = shutil.which("curl")
pytestmark = pytest.mark.skipif(CURL is None, reason="needs curl")

DATA = os.urandom(3_000_001)


class Served:
    """A served directory, and a working directory for curl."""

    def __init__(self, tmp_path: Path, *options: str) -> None:
        self.root, self.here = tmp_path / "root", tmp_path / "here"
        self.root.mkdir()
        self.here.mkdir()
        command = [sys.executable, "-m", "noria", "serve", "files", str(self.root), "--port", "0"]
        self.process = subprocess.Popen(
            [*command, *options], stdout=subprocess.PIPE, text=True, env=environment()
        )
        assert self.process.stdout is not None
        found = re.search(r"(https?)://127\.0\.0\.1:(\d+)", self.process.stdout.readline())
        assert found
        self.url = f"{found[1]}://localhost:{found[2]}"

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=20)

    def curl(self, *arguments: str | Path, status: int = 0) -> str:
        """Return the output of curl, which must exit with `status`."""
        environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
        done = subprocess.run(
            [str(CURL), "-q", "-sS", "--max-time", "20", *map(str, arguments)],
            cwd=self.here, capture_output=True, text=True, env=environment,
        )  # fmt: skip
        assert done.returncode == status, done.stderr
        return done.stdout

    def status(self, *arguments: str | Path) -> int:
        """Return the status of the response."""
        return int(self.curl("-o", os.devnull, "-w", "%{http_code}", *arguments))


def test_down(tmp_path: Path) -> None:
    with Served(tmp_path) as served:
        (served.root / "d").mkdir()
        (served.root / "d" / "a b&c.bin").write_bytes(DATA)
        url = f"{served.url}/d/a%20b%26c.bin"
        served.curl("-O", url)
        assert (served.here / "a%20b%26c.bin").read_bytes() == DATA
        # Resumed, and by ranges.
        (served.here / "begun").write_bytes(DATA[:1_000_000])
        served.curl("-C", "-", "-o", "begun", url)
        assert (served.here / "begun").read_bytes() == DATA
        served.curl("-r", "5-9", "-o", "part", url)
        assert (served.here / "part").read_bytes() == DATA[5:10]
        several = served.curl("-D", "-", "-o", "parts", "-r", "0-4,-3", url)
        assert "multipart/byteranges" in several
        assert (served.here / "parts").read_bytes().count(b"Content-Range: bytes ") == 2
        # Conditional requests.
        served.curl("--etag-save", "tag", "-o", "first", url)
        assert served.status("--etag-compare", "tag", url) == 304
        assert served.status("-z", served.here / "first", url) == 304
        assert "content-length: 3000001\n" in served.curl("-I", url).lower().replace("\r", "")
        listing = json.loads(served.curl("-H", "Accept: application/json", f"{served.url}/d/"))
        assert listing["entries"][0]["name"] == "a b&c.bin"
        assert served.status("-L", f"{served.url}/d") == 200
        served.curl("-o", "d.tar", f"{served.url}/d/?archive=tar")
        with tarfile.open(served.here / "d.tar") as archive:
            (name,) = [one.name for one in archive if one.isfile()]
            file = archive.extractfile(name)
            assert file is not None
            assert file.read() == DATA
        for hostile in ("/../x", "/d/%2e%2e/%2e%2e/etc/passwd", "/d/..%2f..%2fetc/passwd"):
            assert served.status("--path-as-is", served.url + hostile) in (400, 404)
        assert served.status("-H", "Host: rebound.example", url) == 421
        assert served.status("-T", served.here / "part", f"{served.url}/new") == 403


def test_up(tmp_path: Path) -> None:
    with Served(tmp_path, "--upload") as served:
        (served.here / "a").write_bytes(DATA)  # large enough for Expect: 100-continue
        assert served.status("-T", "a", f"{served.url}/") == 201
        assert (served.root / "a").read_bytes() == DATA
        assert served.status("-T", "a", f"{served.url}/a") == 409
        served.curl("--etag-save", "tag", "-o", os.devnull, f"{served.url}/a")
        tag = (served.here / "tag").read_text().strip()
        (served.here / "b").write_bytes(DATA[::-1])
        assert served.status("-T", "b", "-H", 'If-Match: "other"', f"{served.url}/a") == 412
        assert served.status("-T", "b", "-H", f"If-Match: {tag}", f"{served.url}/a") == 204
        assert (served.root / "a").read_bytes() == DATA[::-1]
        # Of unknown length, so chunked.
        with open(served.here / "a", "rb") as file:
            done = subprocess.run(
                [str(CURL), "-q", "-sS", "-T", "-", f"{served.url}/piped"],
                stdin=file, check=True, capture_output=True,
            )  # fmt: skip
        assert done.returncode == 0
        assert (served.root / "piped").read_bytes() == DATA
        assert served.status("-F", "file=@a;filename=by form", f"{served.url}/") in (201, 303)
        assert (served.root / "by form").read_bytes() == DATA
        assert served.status("-X", "MKCOL", f"{served.url}/d/") == 201
        to = f"Destination: {served.url}/d/moved"
        assert served.status("-X", "MOVE", "-H", to, f"{served.url}/piped") == 201
        assert (served.root / "d" / "moved").read_bytes() == DATA
        assert served.status("-X", "DELETE", f"{served.url}/d/moved") == 204
        assert not (served.root / "d" / "moved").exists()
        assert served.status("-X", "OPTIONS", f"{served.url}/") == 204


def test_an_upload_that_is_resumed(tmp_path: Path) -> None:
    half = len(DATA) // 2
    tus = ("-H", "Tus-Resumable: 1.0.0")
    name = base64.b64encode(b"whole").decode()
    with Served(tmp_path, "--upload") as served:
        (served.here / "first").write_bytes(DATA[:half])
        (served.here / "second").write_bytes(DATA[half:])
        made = served.curl(
            *tus, "-X", "POST", "-D", "-", "-H", f"Upload-Length: {len(DATA)}",
            "-H", f"Upload-Metadata: filename {name}", f"{served.url}/-/uploads/",
        )  # fmt: skip
        found = re.search(r"(?i)location: (\S+)", made)
        assert found
        place = served.url + found[1]
        for offset, part in ((0, "first"), (half, "second")):
            head = served.curl(*tus, "-I", place).lower()
            assert f"upload-offset: {offset}" in head
            assert not (served.root / "whole").exists()
            answer = served.status(
                *tus, "-X", "PATCH", "-H", f"Upload-Offset: {offset}",
                "-H", "Content-Type: application/offset+octet-stream",
                "--data-binary", f"@{part}", place,
            )  # fmt: skip
            assert answer == 204
        assert (served.root / "whole").read_bytes() == DATA


def test_logins_and_tls(tmp_path: Path) -> None:
    pem = str(loops.CERTIFICATE)
    login = ("--auth", f"me:{PasswordHash.create('secret')}", "--token", "abc")
    with Served(tmp_path, "--tls", pem, pem, *login) as served:
        (served.root / "a").write_bytes(b"hello")
        url = f"{served.url}/a"
        served.curl(url, status=60)  # the certificate is self-signed
        trusted = ("--cacert", pem)
        assert served.status(*trusted, url) == 401
        assert served.status(*trusted, "-u", "me:wrong", url) == 401
        assert served.curl(*trusted, "-u", "me:secret", url) == "hello"
        assert served.curl(*trusted, "--oauth2-bearer", "abc", url) == "hello"
