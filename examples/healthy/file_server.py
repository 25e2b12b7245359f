"""noria's file server with 6 clients for 2 s: downloads, listings and uploads.

python examples/healthy/file_server.py [SECONDS [MODEL]]
"""

import asyncio
import http.client
import sys
import tempfile
import threading
import time
from pathlib import Path

from noria.fileserver.options import ServerOptions
from noria.fileserver.serve import serve_files

SECONDS = float(sys.argv[1]) if sys.argv[1:] else 2.0
CLIENTS = 6


def client(port, number, end, answers):
    """Send requests on one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    body, count = b"y" * 100_000, 0
    while time.monotonic() < end:
        for method, path, data, expected in (
            ("GET", "/small.txt", None, 1_000),
            ("GET", "/large.bin", None, 1_000_000),
            ("GET", "/", None, 0),
            ("PUT", f"/upload{number}.bin", body, 0),
        ):
            connection.request(method, path, data)
            response = connection.getresponse()
            size = len(response.read())
            assert response.status in (200, 201, 204), response.status
            assert not expected or size == expected
            count += 1
    connection.close()
    answers.append(count)


def clients(port, answers):
    """Run the clients."""
    end = time.monotonic() + SECONDS
    threads = [
        threading.Thread(target=client, args=(port, number, end, answers))
        for number in range(CLIENTS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main():
    answers = []
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "small.txt").write_bytes(b"x" * 1_000)
        Path(directory, "large.bin").write_bytes(b"x" * 1_000_000)
        model = sys.argv[2] if sys.argv[2:] else "auto"
        options = ServerOptions(directory, port=0, model=model, upload=True, overwrite=True)

        def ready(info):
            port = int(info.addresses[0].rsplit(":", 1)[1])
            loop = asyncio.get_running_loop()
            load = loop.run_in_executor(None, clients, port, answers)
            load.add_done_callback(lambda _: info.stop())

        serve_files(options, ready)
    print(sum(answers), "answers")


main()
