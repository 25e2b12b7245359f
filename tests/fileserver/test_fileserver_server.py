"""The server around the service: threads, cleanup, logins, error pages and shutdown."""

from __future__ import annotations

import asyncio
import fcntl
import html
import os
import re
import socket
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from support import loops

pytest.importorskip("httptools")

from noria.fileserver import cleanup, stale_files
from noria.fileserver.allowed_hosts import allowed_hosts_for
from noria.fileserver.options import ServerOptions
from noria.fileserver.root import Root
from noria.fileserver.serve import serve_files
from noria.fileserver.server import DISK_THREADS
from noria.http.limits import Limits
from noria.http.worker_threads import run_in_thread
from noria.servers.config import ServerInfo


def serve(directory: Path, main: Callable[[int], Awaitable[None]], **options: Any) -> None:
    """Run `main(port)` with a server that stops when it returns."""
    outcome: list[asyncio.Task[None]] = []

    def ready(info: ServerInfo) -> None:
        async def beside() -> None:
            try:
                await asyncio.wait_for(main(int(info.addresses[0].rpartition(":")[2])), 30)
            finally:
                info.stop()

        outcome.append(asyncio.get_running_loop().create_task(beside()))

    serve_files(ServerOptions(directory=str(directory), port=0, **options), ready)
    outcome[0].result()
    assert not [one for one in threading.enumerate() if one.name.startswith("noria-disk")]


def left_behind(directory: Path) -> Path:
    """Create the stale partial file of a killed process."""
    part = directory / ".noria-0123456789abcdef.part"
    part.write_bytes(b"half")
    os.utime(part, (1, 1))
    return part


def test_as_many_calls_wait_for_the_disk_as_there_are_threads(tmp_path: Path) -> None:
    async def main(_: int) -> None:
        all_are_there = threading.Barrier(DISK_THREADS)
        await asyncio.gather(*(run_in_thread(all_are_there.wait, 20) for _ in range(DISK_THREADS)))

    serve(tmp_path, main)


def test_what_lost_uploads_left_is_removed_at_the_start_and_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cleanup, "FIRST_INTERVAL", 0.01)
    monkeypatch.setattr(cleanup, "INTERVAL", 0.01)
    (tmp_path / "d").mkdir()
    part = left_behind(tmp_path / "d")
    young = tmp_path / ".noria-fedcba9876543210.part"
    young.touch()

    async def main(_: int) -> None:
        await loops.until(lambda: not part.exists())
        for _ in range(2):
            again = left_behind(tmp_path)
            await loops.until(lambda: not again.exists())  # noqa: B023

    async def others(_: int) -> None:
        await asyncio.sleep(0.1)

    serve(tmp_path, main, upload=True)
    assert young.exists()
    part = left_behind(tmp_path / "d")
    serve(tmp_path, others)  # the directory is read-only
    assert part.exists()


def test_a_cleanup_that_fails_is_logged_and_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cleanup, "FIRST_INTERVAL", 0.01)
    part = left_behind(tmp_path)
    directories, calls = stale_files.walk_directories, []

    def failing(top: int) -> Any:
        calls.append(top)
        if len(calls) == 1:
            raise OSError("of the test")
        return directories(top)

    async def main(_: int) -> None:
        await loops.until(lambda: not part.exists())

    with monkeypatch.context() as patched:
        patched.setattr(stale_files, "walk_directories", failing)
        serve(tmp_path, main, upload=True)
    assert "of the test" in caplog.text


def test_a_sweep_ends_in_the_middle_when_the_server_does(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / str(number)).mkdir()
        left_behind(tmp_path / str(number))
    answers = iter([False, False, False, True])
    root = Root(tmp_path)
    assert stale_files.remove_stale(root, lambda: next(answers)) == 2
    assert stale_files.remove_stale(root) == 3
    root.close()


def test_of_several_workers_one_sweeps_as_long_as_it_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cleanup, "INTERVAL", 0.01)
    turn = os.memfd_create("of the test")
    ready_reader, ready_writer = os.pipe()
    end, ending = os.pipe()
    pid = os.fork()
    if pid == 0:  # another worker, which started earlier
        os.close(ending)
        fcntl.lockf(turn, fcntl.LOCK_EX)
        os.write(ready_writer, b".")
        os.read(end, 1)
        os._exit(0)
    os.read(ready_reader, 1)
    part = left_behind(tmp_path)

    async def main(_: int) -> None:
        await asyncio.sleep(0.1)
        assert part.exists()
        os.close(ending)
        os.waitpid(pid, 0)
        await loops.until(lambda: not part.exists())

    serve(tmp_path, main, upload=True, cleanup_fd=turn)
    for fd in (turn, ready_reader, ready_writer, end):
        os.close(fd)


HOST = socket.gethostname()


@pytest.mark.parametrize(
    ("allowed", "host", "status"),
    [
        ((), "localhost:8000", 200),
        ((), "LocalHost.", 200),
        ((), "a.localhost", 200),
        ((), "127.0.0.1:80", 200),
        ((), "[::1]:80", 200),
        ((), "192.0.2.1", 200),
        ((), HOST, 200),
        ((), "", 200),
        ((), "rebound.example", 421),
        ((), "localhost.rebound.example", 421),
        ((), "127.0.0.1.rebound.example:80", 421),
        ((), "0x7f.1", 421),
        (("files.example",), "files.example:8000", 200),
        (("Files.Example.",), "files.example", 200),
        (("files.example",), "other.example", 421),
        (("*",), "rebound.example", 200),
    ],
)
def test_the_names_it_is_called_by(
    tmp_path: Path, allowed: tuple[str, ...], host: str, status: int
) -> None:
    (tmp_path / "file").write_bytes(b"hello")

    async def main(port: int) -> None:
        for target in ("/file", "/"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            assert int((await reader.readuntil(b"\r\n")).split()[1]) == status
            writer.close()

    serve(tmp_path, main, allowed_hosts=allowed)


def test_where_a_network_reaches_it_names_are_not_known() -> None:
    with socket.socket() as here, socket.socket() as everywhere:
        here.bind(("127.0.0.1", 0))
        everywhere.bind(("0.0.0.0", 0))
        assert allowed_hosts_for((), [here]) is not None
        assert allowed_hosts_for((), [here, everywhere]) is None
        named = allowed_hosts_for(["files.example"], [everywhere])
        assert named is not None
        assert named.allows("files.example")
        assert not named.allows("rebound.example")
        for number in range(1000):  # the cache is limited
            assert not named.allows(f"{number}.example")
        assert len(named._cache) < 300
    with socket.socket(socket.AF_UNIX) as unix:
        assert allowed_hosts_for((), [unix]) is None


def test_with_tls_a_silent_client_counts(tmp_path: Path) -> None:
    async def main(port: int) -> None:
        _, silent = await asyncio.open_connection("127.0.0.1", port)
        secure: Any = {"ssl": loops.client_context(), "server_hostname": "localhost"}
        with pytest.raises(OSError):  # noqa: PT011 one of many ways to see a connection end
            await asyncio.open_connection("127.0.0.1", port, **secure)
        silent.close()

        async def greeted() -> bool:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port, **secure)
            except OSError:
                return False
            writer.close()
            return True

        while not await greeted():
            await asyncio.sleep(0.01)

    serve(tmp_path, main, tls=loops.server_context(), limits=Limits(max_connections=1))


BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


def test_the_plain_form_of_the_page(tmp_path: Path) -> None:
    httpx = pytest.importorskip("httpx")
    (tmp_path / "d é").mkdir()
    (tmp_path / "d é" / "there").write_bytes(b"old")
    large = bytes(range(256)) * 10_000

    def browse(port: int) -> None:
        site = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=site, headers={**BROWSER, "Origin": site}) as client:
            page = client.get("/d%20%C3%A9/").text
            form = re.search(r'<form [^>]*method="post"[^>]*>', page)
            assert form is not None
            assert 'enctype="multipart/form-data"' in form[0]
            action = re.search(r'action="([^"]*)"', form[0])
            assert action is not None
            assert '<input type="file" name="file" multiple' in page

            def send(*files: tuple[str, bytes], **headers: str) -> Any:
                return client.post(
                    action[1], files=[("file", each) for each in files], headers=headers
                )

            answer = send(("one", b"1"), ('q"uote é ☃.txt', large), ("empty", b""))
            assert answer.status_code == 303
            assert answer.headers["location"] == "/d%20%C3%A9/"
            listed = client.get(answer.headers["location"]).text
            assert "q&#34;uote é ☃.txt" in listed

            answer = send(("two", b"2"), ("there", b"new"), ("three", b"3"))
            assert answer.status_code == 409
            assert answer.headers["content-type"] == "text/html; charset=utf-8"
            assert "default-src 'self'" in answer.headers["content-security-policy"]
            assert "there: A file with that name exists" in answer.text
            assert "Files stored before the error: two." in answer.text
            assert '<a href="./">Back</a>' in answer.text

            answer = send(("there", b"new"), ("large", large * 4))
            assert (answer.status_code, "Files stored before" in answer.text) == (409, False)
            assert "connection" not in answer.headers  # as the body was read

            answer = send(("<script>", b"3"), ("<b>/x", b"3"))
            assert answer.status_code == 400
            assert "<script>" not in answer.text
            assert send(("", b"")).status_code == 400  # sent with no file chosen
            answer = send(("x", b"x"), Origin="http://evil.example")
            assert answer.status_code == 403
            assert "another site" in answer.text

    async def main(port: int) -> None:
        await asyncio.to_thread(browse, port)

    serve(tmp_path, main, upload=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "d é").iterdir()} == {
        "there": b"old",
        "one": b"1",
        'q"uote é ☃.txt': large,
        "empty": b"",
        "two": b"2",
        "<script>": b"3",
    }


@pytest.mark.parametrize(
    ("path", "status", "back"),
    [
        ("/none", 404, "/"),
        ("/d%20%C3%A9/none", 404, "/d%20%C3%A9/"),
        ("/no/such/", 404, "/no/"),
        ("//evil.example/x", 400, "/"),
        ("/a/%2e%2e/b", 400, "/"),
        ("/?archive=rar", 400, "/"),
        ("/-/none/at/all", 404, "/"),
        ("/-/assets/none", 404, "/"),
        ("/-", 404, "/"),
    ],
)
def test_browsers_get_an_error_page(tmp_path: Path, path: str, status: int, back: str) -> None:
    httpx = pytest.importorskip("httpx")
    (tmp_path / "d é").mkdir()

    def browse(port: int) -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            target = httpx.URL(f"http://127.0.0.1:{port}{path}")
            listed = client.get("/", headers=BROWSER)
            page = client.get(target, headers=BROWSER)
            assert page.status_code == status
            for field in ("content-type", "content-security-policy", "x-content-type-options"):
                assert page.headers.get_list(field) == listed.headers.get_list(field)
            assert page.headers["vary"] == "Accept"
            assert re.findall(r'<a href="([^"]*)"', page.text) == [back]
            assert f"<h1>{status} " in page.text
            head = client.head(target, headers=BROWSER)
            assert (head.status_code, head.content) == (status, b"")
            assert head.headers["content-length"] == page.headers["content-length"]
            for accept in (
                "*/*",
                "text/html;q=0",
                "application/json",
                "text/plain, text/html;q=0.9",
                "text/event-stream",
            ):
                plain = client.get(target, headers={"Accept": accept})
                assert plain.status_code == status
                assert plain.headers["content-type"] == "text/plain; charset=utf-8"
                assert plain.headers.get_list("x-content-type-options") == ["nosniff"]
                assert html.unescape(page.text).count(plain.text.strip()) == 1

    async def main(port: int) -> None:
        await asyncio.to_thread(browse, port)

    serve(tmp_path, main)


def test_an_error_page_for_refused_and_malformed_requests(tmp_path: Path) -> None:
    httpx = pytest.importorskip("httpx")

    def browse(port: int) -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=BROWSER) as client:
            page = client.get("/")
            assert page.status_code == 401
            assert page.headers["www-authenticate"].startswith("Bearer")
            assert '<p role="alert">Authentication is required.</p>' in page.text
            assert client.put("/x", content=b"").headers["content-type"].startswith("text/plain")
            client.headers["Authorization"] = "Bearer t"
            page = client.get("/", params={"archive": "<b>\u202e"})
            assert "archive=&lt;b&gt;\ufffd is not supported" in page.text

    async def main(port: int) -> None:
        await asyncio.to_thread(browse, port)

    serve(tmp_path, main, tokens=["t"])


@pytest.mark.parametrize("upload", [False, True])
def test_which_methods_there_are(tmp_path: Path, upload: bool) -> None:
    httpx = pytest.importorskip("httpx")
    reading = "GET, HEAD, OPTIONS"

    def browse(port: int) -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            for path in ("/", "/none", "/-/assets/page.css", "/-/events"):
                answer = client.options(path)
                assert (answer.status_code, answer.content) == (204, b"")
                more = ", PUT, POST, DELETE, MOVE, MKCOL" if upload and path[1:2] != "-" else ""
                assert answer.headers["allow"] == reading + more
                assert client.request("TRACE", path).status_code == 405
            assert "tus-version" in client.options("/-/uploads/").headers or not upload

    async def main(port: int) -> None:
        await asyncio.to_thread(browse, port)

    serve(tmp_path, main, upload=upload)
