"""The example thumbnails: picture in, thumbnail out, and the pages of all servers follow."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import io
import json
import re
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("httptools")
pytest.importorskip("PIL")

import httpx
from PIL import Image

from noria.fileserver.options import ServerOptions
from noria.fileserver.serve import serve_files
from noria.servers.config import ServerInfo
from support import brokers
from support.running import ROOT, start_python

EXAMPLE = ROOT / "examples" / "thumbnails" / "thumbnails.py"
NAMES = ["cat.png", "cat.thumbnail.jpg"]


def picture(kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.linear_gradient("L").resize((800, 400)).convert("RGB").save(out, kind)
    return out.getvalue()


def names(listing: httpx.Response) -> list[str]:
    return [entry["name"] for entry in listing.json()["entries"]]


# In one process, on memory:.


def load(port: int, events: str) -> ModuleType:
    """Import the example as a worker of this server does."""
    spec = importlib.util.spec_from_file_location("thumbnails", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVENTS", events)
        patch.setenv("FILES", f"http://127.0.0.1:{port}")
        spec.loader.exec_module(module)
    return module


@contextlib.asynccontextmanager
async def changes(client: httpx.AsyncClient) -> AsyncIterator[AsyncIterator[str]]:
    """Follow the page of the top directory."""
    async with client.stream("GET", "/-/events", params={"path": "/"}) as response:
        lines = response.aiter_lines()
        assert (await anext(lines)).startswith("retry:")
        yield (line async for line in lines if line.startswith("data:"))


async def try_the_example(port: int, events: str) -> None:
    worker = load(port, events)
    url = f"http://127.0.0.1:{port}"
    headers = {"accept": "application/json"}
    async with (
        worker.bus,
        httpx.AsyncClient(base_url=url, headers=headers, timeout=20) as client,
        changes(client) as page,
    ):
        assert (await client.put("/cat.png", content=picture())).status_code == 201
        found: list[str] = []
        while found != NAMES:
            assert json.loads((await anext(page)).removeprefix("data:")) == {"path": "/"}
            found = names(await client.get("/"))
        small = Image.open(io.BytesIO((await client.get("/cat.thumbnail.jpg")).content))
        assert small.size == (240, 120)
        # A file that is no picture is a dead letter at once.
        assert (await client.put("/not.png", content=b"text")).status_code == 201
        while not (dead := await worker.bus.dead()):
            await asyncio.sleep(0.001)
        assert "/not.png is no picture" in dead[0].error
        assert (dead[0].group, dead[0].attempts) == ("thumbnails", 1)
        # The thumbnail goes with the picture.
        assert (await client.delete("/cat.png")).status_code == 204
        while found != ["not.png"]:
            await anext(page)
            found = names(await client.get("/"))


def test_a_picture_gets_a_thumbnail_and_the_page_shows_it(tmp_path: Path) -> None:
    outcome: list[asyncio.Task[None]] = []

    def ready(info: ServerInfo) -> None:
        async def beside() -> None:
            try:
                port = int(info.addresses[0].rpartition(":")[2])
                await asyncio.wait_for(try_the_example(port, "memory:thumbnails"), 40)
            finally:
                info.stop()

        outcome.append(asyncio.get_running_loop().create_task(beside()))

    options = ServerOptions(
        directory=str(tmp_path), port=0, upload=True, overwrite=True, events="memory:thumbnails"
    )
    serve_files(options, ready)
    outcome[0].result()


# In processes of their own, on a broker.


class Command:
    """A `noria` command or another Python program, in the directory of the example."""

    def __init__(self, *arguments: object, **more: str) -> None:
        self.process = start_python(*arguments, cwd=EXAMPLE.parent, **more)

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[str]:
    with brokers.running("redis", tmp_path / "redis") as server:
        yield server.url


def test_the_commands_of_its_readme(tmp_path: Path, redis: str) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    serve = ("-m", "noria", "serve", "files", pictures, "--port", 0, "--upload", "--overwrite")
    with Command(*serve, "--events", redis) as server:
        found = re.search(r"http://127\.0\.0\.1:\d+", server.line())
        assert found is not None
        assert server.line() == f"events at {redis}\n"
        url = found[0]
        work = ("-m", "noria", "work", "thumbnails:bus")
        with (
            Command(*work, FILES=url, EVENTS=redis) as worker,
            httpx.Client(timeout=20) as client,
        ):
            for number in range(3):
                put = client.put(f"{url}/{number}.jpg", content=picture("JPEG"))
                assert put.status_code == 201
            done: list[str] = []
            while len(done) < 3:
                line = worker.line()
                assert line, "the worker has ended"
                done += [line] if "->" in line else []
            assert min(done) == "/0.jpg -> /0.thumbnail.jpg, attempt 1\n"
            listing = client.get(url, headers={"accept": "application/json"})
            assert len(names(listing)) == 6


def test_without_pillow_it_says_what_to_install() -> None:
    source = f"import runpy, sys; sys.modules['PIL'] = None; runpy.run_path({str(EXAMPLE)!r})"
    with Command("-c", source) as worker:
        out, err = worker.process.communicate(timeout=20)
    assert (worker.process.returncode, out) == (1, "")
    assert err == "this example needs Pillow: pip install pillow\n"
