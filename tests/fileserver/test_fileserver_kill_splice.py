"""As test_fileserver_kill.py, for uploads that are spliced into the file, over real connections."""

from __future__ import annotations

import base64
import hashlib
import http.client
import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("httptools")

from support.loops import count
from support.running import line, start

SERVING = """
    import sys
    from noria.fileserver.options import ServerOptions
    from noria.fileserver.serve import serve_files

    def ready(info):
        print(info.addresses[0].rpartition(":")[2], flush=True)

    serve_files(ServerOptions(directory=sys.argv[1], port=0, upload=True, overwrite=True), ready)
"""
TUS = {"Host": "localhost", "Tus-Resumable": "1.0.0"}
KIND = "application/offset+octet-stream"


def body(numbers: random.Random) -> bytes:
    """Return a large body that ends in its own digest."""
    data = numbers.randbytes(1 << 20) * numbers.randrange(3, 7)
    return data + hashlib.sha256(data).digest()


def whole(data: bytes) -> bool:
    return hashlib.sha256(data[:-32]).digest() == data[-32:]


def puts(port: int, numbers: random.Random, kept: dict[str, str]) -> None:
    """Send PUTs until the server is killed; record the acknowledged ones in `kept`."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        while True:
            data, name = body(numbers), f"put-{len(kept)}"
            connection.request("PUT", f"/{name}", data)
            answer = connection.getresponse()
            answer.read()
            assert answer.status in (201, 204)
            kept[name] = hashlib.sha256(data).hexdigest()
    except (OSError, http.client.HTTPException):
        connection.close()


class Resumed:
    """Uploads by tus, one after the other; each is resumed on the next servers until it is done."""

    def __init__(self, numbers: random.Random) -> None:
        self.numbers = numbers
        self.done: dict[str, bytes] = {}
        self.begin()

    def begin(self) -> None:
        self.data = body(self.numbers)
        self.place = ""
        self.acknowledged = 0  # bytes that a server has acknowledged

    def resume(self, port: int) -> None:
        """Send until the server is killed."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        try:
            while True:
                self.step(connection)
        except (OSError, http.client.HTTPException):
            connection.close()

    def ask(
        self, connection: http.client.HTTPConnection, method: str, place: str, data: bytes = b"",
        **headers: str,
    ) -> http.client.HTTPResponse:  # fmt: skip
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, place, data, {**TUS, **fields})
        answer = connection.getresponse()
        answer.read()
        return answer

    def step(self, connection: http.client.HTTPConnection) -> None:
        name = f"tus-{len(self.done)}"
        if not self.place:
            answer = self.ask(
                connection, "POST", "/-/uploads/", Upload_Length=str(len(self.data)),
                Upload_Metadata=f"filename {base64.b64encode(name.encode()).decode()}",
            )  # fmt: skip
            assert answer.status == 201
            self.place = answer.headers["Location"]
        answer = self.ask(connection, "HEAD", self.place)
        assert answer.status == 200
        offset = int(answer.headers["Upload-Offset"])
        assert offset >= self.acknowledged
        self.acknowledged = offset
        if offset < len(self.data):
            answer = self.ask(
                connection, "PATCH", self.place, self.data[offset:],
                Upload_Offset=str(offset), Content_Type=KIND,
            )  # fmt: skip
            assert answer.status == 204
            self.acknowledged = int(answer.headers["Upload-Offset"])
        if self.acknowledged == len(self.data):
            self.done[name] = self.data
            self.begin()


@pytest.mark.timeout(count(120, 600))
def test_many_kills_of_a_server(tmp_path: Path) -> None:
    moments = random.Random(7)
    kept: dict[str, str] = {}
    resumed = Resumed(random.Random(8))
    parts = 0
    with ThreadPoolExecutor(2) as threads:
        for seed in range(count(8, 100)):
            process = start(SERVING, str(tmp_path))
            port = int(line(process))
            killer = threading.Timer(moments.uniform(0.02, 0.2), process.kill)
            clients = [
                threads.submit(puts, port, random.Random(seed), kept),
                threads.submit(resumed.resume, port),
            ]
            killer.start()
            for client in clients:
                client.result(60)
            killer.join()
            process.communicate()
            for name in os.listdir(tmp_path):
                if name.endswith(".part"):  # left by the killed server
                    parts += 1
                    os.unlink(tmp_path / name)
        # A server that is not killed completes the interrupted upload.
        process = start(SERVING, str(tmp_path))
        port = int(line(process))
        ended = len(resumed.done) + 1
        going = threads.submit(resumed.resume, port)
        until = time.monotonic() + 60
        while len(resumed.done) < ended:
            assert time.monotonic() < until
            time.sleep(0.01)
        process.kill()
        process.communicate()
        going.result(60)
    for name, digest in kept.items():
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest
    for name, data in resumed.done.items():
        assert (tmp_path / name).read_bytes() == data
    for path in tmp_path.iterdir():
        if path.is_file() and not path.name.startswith(".noria-"):
            assert whole(path.read_bytes()), f"{path.name} is partial"
            path.unlink()  # there would be some gigabytes
    assert kept
    assert parts
