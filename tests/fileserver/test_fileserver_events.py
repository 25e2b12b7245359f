"""The file server on a bus: events of durable changes, and pages that follow other processes."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import itertools
import json
import logging
import os
import stat
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from support import loops

pytest.importorskip("httptools")

import noria
from noria.bus import backoff
from noria.bus.brokers.memory import MemoryBroker
from noria.bus.contract import Message
from noria.errors import BrokerUnavailable, BusError
from noria.fileserver import commit, file_events
from noria.fileserver.app import FileServerApp, make_service
from noria.fileserver.auth import PasswordHash
from noria.fileserver.options import ServerOptions
from noria.fileserver.serve import serve_files
from noria.http.messages import Headers, HTTPException, Request, Response
from support.fileservice import bytes_of, chunks

_numbers = itertools.count(1)
SOURCE = "https://files.example/"
TUS = {"tus-resumable": "1.0.0", "content-type": "application/offset+octet-stream"}
FORM = {"content-type": "multipart/form-data; boundary=b"}


class Server:
    """A file server without a socket, on a bus, and what a handler of all types gets."""

    def __init__(self, app: FileServerApp, got: list[noria.Event]) -> None:
        self.app = app
        self.got = got
        assert app.file_events is not None
        self.events = app.file_events

    async def ask(
        self, method: str, path: str, body: bytes = b"", **fields: str
    ) -> tuple[int, Headers, bytes]:
        headers = Headers((name.replace("_", "-"), value) for name, value in fields.items())
        query = {}
        if "?" in path:
            path, _, text = path.partition("?")
            query = dict([text.split("=")])
        request = Request(method, path, headers, query, chunks(body), len(body))
        try:
            response = await self.app.handle(request)
        except HTTPException as error:
            response = Response(error.status, error.headers, error.detail.encode())
        return response.status, Headers(response.headers), await bytes_of(response.body)

    async def tus(self, path: str, body: bytes) -> int:
        """Store a file by tus, with one request."""
        name = base64.b64encode(path.encode()).decode()
        status, _, _ = await self.ask(
            "POST",
            "/-/uploads/",
            body,
            upload_length=str(len(body)),
            upload_metadata=f"relativePath {name}",
            **TUS,
        )
        return status

    async def form(self, path: str, name: str, body: bytes) -> int:
        disposition = f'form-data; name="file"; filename="{name}"'
        head = f"--b\r\nContent-Disposition: {disposition}\r\n\r\n".encode()
        status, _, _ = await self.ask("POST", path, head + body + b"\r\n--b--\r\n", **FORM)
        return status

    async def count(self, count: int) -> list[noria.Event]:
        """Wait until there are that many events; return them."""
        await loops.until(lambda: len(self.got) >= count)
        return self.got

    async def all_published(self) -> list[noria.Event]:
        """Wait until nothing is under way any more; return the events of the files."""
        await self.app.service.files.wait_for_changes()
        await loops.until(lambda: not self.events.waiting)
        last = len(self.got)
        async with noria.Bus(self.events.bus.url.text) as bus:
            await bus.emit("test.last", source="test")
        await loops.until(lambda: any(e.type == "test.last" for e in self.got[last:]))
        self.got[:] = [event for event in self.got if event.type != "test.last"]
        return self.got


@contextlib.asynccontextmanager
async def server(directory: Path, url: str = "", **options: Any) -> AsyncIterator[Server]:
    """Run a file server on a bus of this loop."""
    url = url or f"memory:files-{next(_numbers)}"
    given = {"upload": True, "events_source": SOURCE, "metrics": True, **options}
    options_ = ServerOptions(directory=str(directory), events=url, **given)
    service = make_service(options_)
    got: list[noria.Event] = []

    async def keep(event: noria.Event) -> None:
        got.append(event)

    listener = noria.Bus(url)
    listener.on("*", keep, concurrency=1)
    app = FileServerApp(service, options_)
    assert app.file_events is not None
    try:
        await listener.start()
        await app.file_events.start()
        yield Server(app, got)
        app.events.close()
        await service.files.wait_for_changes()
    finally:
        if app.tus is not None:
            app.tus.stop()
        await app.file_events.stop(0.1)
        await listener.drain(0)
        service.close()


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def within() -> None:
        async with asyncio.timeout(30):
            await main()

    noria.run(within())


# The events.


def test_every_way_in_and_out_publishes_what_it_did(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"12345").digest()

    async def main() -> None:
        async with server(tmp_path, overwrite=True) as files:
            field = f"sha-256=:{base64.b64encode(digest).decode()}:"
            first = await files.ask("PUT", "/ä b.txt", b"123")
            again = await files.ask("PUT", "/ä b.txt", b"12345", repr_digest=field)
            assert (first[0], again[0]) == (201, 204)
            assert await files.form("/", "form.txt", b"1") == 201
            assert await files.tus("d/e/tus.txt", b"1234") == 201
            assert (await files.ask("MKCOL", "/new"))[0] == 201
            moved = {"destination": "/new/a.txt"}
            assert (await files.ask("MOVE", "/ä b.txt", **moved))[0] == 201
            over = {"destination": "/new/a.txt", "overwrite": "T"}
            assert (await files.ask("MOVE", "/form.txt", **over))[0] == 204
            assert (await files.ask("MOVE", "/new", destination="/d/old"))[0] == 201
            assert (await files.ask("DELETE", "/d/old/a.txt"))[0] == 204
            assert (await files.ask("DELETE", "/d/old"))[0] == 204
            events = await files.all_published()
        tags = {event.data.pop("etag") for event in events if "etag" in event.data}
        assert first[1].get("etag") in tags
        assert again[1].get("etag") in tags
        assert len(tags) == 4
        sha256 = digest.hex()
        put, form, tus = "/ä b.txt", "/form.txt", "/d/e/tus.txt"
        assert [(event.type, event.data) for event in events] == [
            ("file.created", {"path": put, "size": 3, "sha256": None, "user": None}),
            ("file.replaced", {"path": put, "size": 5, "sha256": sha256, "user": None}),
            ("file.created", {"path": form, "size": 1, "sha256": None, "user": None}),
            ("directory.created", {"path": "/d/", "user": None}),
            ("directory.created", {"path": "/d/e/", "user": None}),
            ("file.created", {"path": tus, "size": 4, "sha256": None, "user": None}),
            ("directory.created", {"path": "/new/", "user": None}),
            (
                "file.moved",
                {
                    "path": "/new/a.txt",
                    "old_path": put,
                    "size": 5,
                    "overwritten": False,
                    "user": None,
                },
            ),
            (
                "file.moved",
                {
                    "path": "/new/a.txt",
                    "old_path": form,
                    "size": 1,
                    "overwritten": True,
                    "user": None,
                },
            ),
            ("directory.moved", {"path": "/d/old/", "old_path": "/new/", "user": None}),
            ("file.deleted", {"path": "/d/old/a.txt", "size": 1, "user": None}),
            ("directory.deleted", {"path": "/d/old/", "user": None}),
        ]
        for event in events:
            assert event.source == SOURCE
            assert event.subject == event.key == event.data["path"]
            assert event.type in file_events.TYPES

    run(main)


def test_nothing_is_published_for_what_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "a").write_bytes(b"old")
        async with server(tmp_path) as files:
            assert (await files.ask("PUT", "/a", b"new"))[0] == 409
            wrong = base64.b64encode(bytes(32)).decode()
            assert (await files.ask("PUT", "/b", b"1", repr_digest=f"sha-256=:{wrong}:"))[0] == 400
            assert (await files.ask("DELETE", "/none"))[0] == 404
            assert (await files.ask("MOVE", "/none", destination="/b"))[0] == 404
            assert (await files.ask("MKCOL", "/a"))[0] == 405
            assert await files.tus("a", b"new") == 409
            assert await files.all_published() == []

    run(main)


def test_the_user_is_the_one_who_has_logged_in(tmp_path: Path) -> None:
    async def main() -> None:
        login = "Basic " + base64.b64encode(b"ann:secret").decode()
        users = {"ann": PasswordHash.create("secret")}
        async with server(tmp_path, users=users, tokens=("abc",)) as files:
            assert (await files.ask("PUT", "/a", b"", authorization=login))[0] == 201
            assert (await files.ask("DELETE", "/a", authorization="Bearer abc"))[0] == 204
            assert [event.data["user"] for event in await files.count(2)] == ["ann", None]
        async with server(tmp_path) as files:  # it checks no passwords
            assert (await files.ask("PUT", "/a", b"", authorization=login))[0] == 201
            assert [event.data["user"] for event in await files.count(1)] == [None]

    run(main)


def test_the_source_names_the_machine_and_the_directory(tmp_path: Path) -> None:
    source = file_events.default_source(str(tmp_path / "." / "ä b"))
    assert source.startswith("file://")
    assert source.endswith(f"{tmp_path.resolve()}/%C3%A4%20b/")
    assert file_events.default_source("/").count("/") == 3


# Never before the change is durable.

Change = Callable[[Server], Awaitable[object]]
CHANGES: dict[str, Change] = {
    "put": lambda files: files.ask("PUT", "/new", b"12"),
    "replace": lambda files: files.ask("PUT", "/old", b"12"),
    "form": lambda files: files.form("/", "new", b"12"),
    "tus": lambda files: files.tus("new", b"12"),
    "move": lambda files: files.ask("MOVE", "/old", destination="/d/new"),
    "delete": lambda files: files.ask("DELETE", "/old"),
    "mkcol": lambda files: files.ask("MKCOL", "/new"),
    "delete directory": lambda files: files.ask("DELETE", "/d"),
}


def prepare(directory: Path) -> None:
    (directory / "d").mkdir(parents=True)
    (directory / "old").write_bytes(b"1")


@pytest.mark.parametrize("change", CHANGES)
def test_no_event_comes_from_a_change_whose_sync_fails(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls = 0
    failing = 0
    sync = os.fsync

    def fsync(fd: int) -> None:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise OSError(5, os.strerror(5))
        sync(fd)

    async def events_of(directory: Path) -> list[str]:
        nonlocal calls
        prepare(directory)
        async with server(directory, overwrite=True) as files:
            calls = 0
            await CHANGES[change](files)
            return [event.type for event in await files.all_published()]

    async def main() -> None:
        nonlocal failing
        assert len(await events_of(tmp_path / "0")) == 1
        syncs = calls
        assert syncs
        for failing in range(1, syncs + 1):
            assert await events_of(tmp_path / str(failing)) == [], f"sync {failing} of {syncs}"

    monkeypatch.setattr(os, "fsync", fsync)
    run(main)


@pytest.mark.parametrize("change", CHANGES)
def test_no_event_comes_while_the_last_sync_lasts(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call that makes the change durable is held, and nothing is published meanwhile."""
    prepare(tmp_path)
    reached, go_on = threading.Semaphore(0), threading.Semaphore(0)
    done = threading.Event()
    sync = os.fsync

    def fsync(fd: int) -> None:
        reached.release()
        assert done.is_set() or go_on.acquire(timeout=20)
        sync(fd)

    async def main() -> None:
        async with server(tmp_path, overwrite=True) as files:
            monkeypatch.setattr(os, "fsync", fsync)
            task = asyncio.ensure_future(CHANGES[change](files))
            held = 0
            try:
                while not task.done():
                    if not reached.acquire(blocking=False):
                        await asyncio.sleep(0.001)
                        continue
                    held += 1
                    for _ in range(5):
                        await asyncio.sleep(0)
                    assert not files.got
                    assert not files.events.waiting
                    assert not files.events.published
                    go_on.release()
            finally:
                done.set()
                go_on.release()
            await task
            assert held
            assert len(await files.all_published()) == 1

    run(main)


@pytest.mark.parametrize("change", ["put", "replace", "form", "tus", "move"])
def test_the_event_follows_the_sync_of_the_directory_after_the_rename(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tmp_path)
    steps: list[str] = []
    sync, replace, rename_new = os.fsync, os.replace, commit.syscalls.rename_new

    def fsync(fd: int) -> None:
        steps.append("directory" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")
        sync(fd)

    def record(call: Callable[..., None]) -> Callable[..., None]:
        def recorded(*arguments: Any, **options: Any) -> None:
            steps.append("rename")
            call(*arguments, **options)

        return recorded

    async def main() -> None:
        async with server(tmp_path, overwrite=True) as files:
            files.app.service.files.on_change.append(lambda _: steps.append("event"))
            monkeypatch.setattr(os, "fsync", fsync)
            monkeypatch.setattr(os, "replace", record(replace))
            monkeypatch.setattr(commit.syscalls, "rename_new", record(rename_new))
            await CHANGES[change](files)
        rename = len(steps) - 1 - steps[::-1].index("rename")
        assert steps[rename:] == ["rename", "directory", *steps[rename + 2 : -1], "event"]
        if change != "move":
            assert "file" in steps[:rename]

    run(main)


def test_no_event_comes_from_a_rename_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(5, os.strerror(5))

    async def main() -> None:
        (tmp_path / "old").touch()
        async with server(tmp_path, overwrite=True) as files:
            monkeypatch.setattr(commit.syscalls, "rename_new", fail)
            monkeypatch.setattr(commit.os, "replace", fail)
            for path in ("/new", "/old"):
                assert (await files.ask("PUT", path, b"1"))[0] == 500
            assert (await files.ask("MOVE", "/old", destination="/new"))[0] == 500
            assert await files.all_published() == []
            assert os.listdir(tmp_path) == ["old"]

    run(main)


def test_a_request_that_is_cancelled_while_its_file_is_stored_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, go_on = threading.Event(), threading.Event()
    sync = os.fsync

    def fsync(fd: int) -> None:
        reached.set()
        assert go_on.wait(20)
        sync(fd)

    async def main() -> None:
        async with server(tmp_path) as files:
            monkeypatch.setattr(os, "fsync", fsync)
            task = asyncio.ensure_future(files.ask("PUT", "/a", b"12"))
            try:
                await loops.until(reached.is_set)
                task.cancel()
                await asyncio.sleep(0)
            finally:
                go_on.set()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            assert [event.type for event in await files.all_published()] == ["file.created"]
            assert (tmp_path / "a").read_bytes() == b"12"

    run(main)


# The pages of several processes.


class Page:
    """A page that follows a directory."""

    def __init__(self, files: Server, path: str) -> None:
        self.messages: list[bytes] = []
        self.task = asyncio.ensure_future(self._follow(files, path))
        self.following = asyncio.Event()

    async def _follow(self, files: Server, path: str) -> None:
        request = Request("GET", "/-/events", query={"path": path})
        response = await files.app.handle(request)
        assert not isinstance(response.body, bytes)
        stream: Any = response.body
        async for message in stream:
            if message.startswith(b"retry"):
                self.following.set()
            elif message.startswith(b"event"):
                self.messages.append(message)


def test_each_page_shows_a_change_of_another_process_once_and_its_own_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The servers look at the directory only when an event wakes them.
    monkeypatch.setattr("noria.fileserver.server_sent_events.POLL_INTERVAL", 60.0)

    async def main() -> None:
        url = f"memory:files-{next(_numbers)}"
        (tmp_path / "d").mkdir()
        async with contextlib.AsyncExitStack() as stack:
            here = await stack.enter_async_context(server(tmp_path, url))
            there = await stack.enter_async_context(server(tmp_path, url))
            pages = {
                (name, path): Page(files, path)
                for name, files in (("here", here), ("there", there))
                for path in ("/", "/d/")
            }
            for page in pages.values():
                await page.following.wait()
            counts = dict.fromkeys(pages, 0)
            for method, path, more, changed in (
                ("PUT", "/a", {}, ["/"]),
                ("MOVE", "/a", {"destination": "/d/b"}, ["/", "/d/"]),
                ("DELETE", "/d/b", {}, ["/d/"]),
            ):
                assert (await here.ask(method, path, b"", **more))[0] in (201, 204)
                for key in pages:
                    counts[key] += key[1] in changed
                    await loops.until(lambda key=key: len(pages[key].messages) >= counts[key])  # type: ignore[misc]
                await here.all_published()
            for _ in range(10):
                await asyncio.sleep(0)
            assert {key: len(page.messages) for key, page in pages.items()} == counts
            assert (here.events.received, there.events.received) == (0, 3)
            message = pages["there", "/d/"].messages[0]
            assert json.loads(message.split(b"data: ")[1]) == {"path": "/d/"}
            for files in (here, there):
                files.app.events.close()
            for page in pages.values():
                await page.task

    run(main)


def test_events_of_other_files_and_of_other_programs_are_no_change_here(tmp_path: Path) -> None:
    async def main() -> None:
        url = f"memory:files-{next(_numbers)}"
        async with (
            server(tmp_path, url) as files,
            server(tmp_path, url, events_source="other") as other,
            noria.Bus(url, source=SOURCE) as bus,
        ):
            assert (await other.ask("PUT", "/a", b""))[0] == 201
            await bus.emit("file.deleted", path=1)
            await bus.publish(noria.Event("file.deleted", "text", source=SOURCE))
            await files.all_published()
            assert files.events.received == 0
            await bus.emit("file.deleted", path="/a")
            await loops.until(lambda: files.events.received == 1)

    run(main)


# A broker that is away, or refuses.


class Fault:
    """Makes the calls of memory: raise, while `error` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.error: BusError | None = None
        self.calls = 0
        publish, connect = MemoryBroker.publish, MemoryBroker.connect

        async def failing_publish(
            broker: MemoryBroker, messages: Sequence[Message]
        ) -> Mapping[int, BusError]:
            self.calls += 1
            if isinstance(self.error, BrokerUnavailable):
                raise self.error
            if self.error is not None:
                return dict.fromkeys(range(len(messages)), self.error)
            return await publish(broker, messages)

        async def failing_connect(broker: MemoryBroker) -> None:
            if isinstance(self.error, BrokerUnavailable):
                raise self.error
            await connect(broker)

        monkeypatch.setattr(MemoryBroker, "publish", failing_publish)
        monkeypatch.setattr(MemoryBroker, "connect", failing_connect)
        monkeypatch.setattr(backoff, "RECONNECT_BASE", 0.001)
        monkeypatch.setattr(backoff, "RECONNECT_CAP", 0.01)


@pytest.fixture
def fault(monkeypatch: pytest.MonkeyPatch) -> Fault:
    return Fault(monkeypatch)


async def metrics_of(files: Server) -> dict[str, str]:
    _, _, body = await files.ask("GET", "/-/metrics")
    rows = [row.rsplit(" ", 1) for row in body.decode().splitlines() if row[0] != "#"]
    return {
        name.partition("{")[0].removeprefix("noria_file_events_"): value
        for name, value in rows
        if name.startswith("noria_file_events")
    }


@pytest.mark.parametrize(
    "error", [BrokerUnavailable("gone"), BusError("the stream is full")], ids=["away", "refuses"]
)
def test_uploads_go_on_without_a_broker_and_their_events_follow(
    error: BusError, tmp_path: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_events, "MAX_REFUSALS", 1_000_000)
    monkeypatch.setattr(backoff, "delay", lambda attempt: 0.001)

    async def main() -> None:
        async with server(tmp_path) as files:
            fault.error = error
            for number in range(5):
                assert (await files.ask("PUT", f"/{number}", b""))[0] == 201
            await loops.until(lambda: fault.calls >= 3)
            assert await metrics_of(files) == {
                "published_total": "0",
                "waiting": "5",
                "lost_total": "0",
                "received_total": "0",
            }
            fault.error = None
            await loops.until(lambda: files.events.published == 5)
            paths = [event.data["path"] for event in await files.all_published()]
            if not isinstance(error, BrokerUnavailable):
                paths.sort()  # those that were refused are tried again each on its own
            assert paths == ["/0", "/1", "/2", "/3", "/4"]

    run(main)


def test_what_waits_for_the_broker_is_bounded_and_its_loss_is_logged_once(
    tmp_path: Path,
    fault: Fault,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(file_events, "MAX_WAITING", 2)

    async def main() -> None:
        async with server(tmp_path) as files:
            fault.error = BrokerUnavailable("gone")
            for number in range(5):
                assert (await files.ask("PUT", f"/{number}", b""))[0] == 201
            assert (files.events.waiting, files.events.lost) == (2, 3)
            fault.error = None
            await files.all_published()
            assert (await metrics_of(files))["lost_total"] == "3"

    with caplog.at_level(logging.WARNING, "noria"):
        run(main)
    assert [record.getMessage() for record in caplog.records] == [
        "an event of a file is lost, and others may be: 2 events wait for the broker",
        "events are published again; 3 were lost so far",
    ]


def test_an_event_that_the_broker_refuses_again_and_again_is_given_up(
    tmp_path: Path,
    fault: Fault,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(backoff, "delay", lambda attempt: 0.0)

    async def main() -> None:
        async with server(tmp_path) as files:
            fault.error = BusError("the stream is full")
            assert (await files.ask("PUT", "/a", b""))[0] == 201
            await loops.until(lambda: files.events.lost == 1)
            assert fault.calls == file_events.MAX_REFUSALS
            fault.error = None

    with caplog.at_level(logging.WARNING, "noria"):
        run(main)
    assert "the stream is full" in caplog.text


def test_a_server_that_stops_without_a_broker_counts_what_it_could_not_publish(
    tmp_path: Path, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with server(tmp_path) as files:
            fault.error = BrokerUnavailable("gone")
            assert (await files.ask("PUT", "/a", b""))[0] == 201
        assert files.events.lost == 1

    with caplog.at_level(logging.WARNING, "noria"):
        run(main)
    assert "the server stops; events that were not published: 1" in caplog.text


def test_a_worker_that_starts_without_a_broker_connects_later(
    tmp_path: Path, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        fault.error = BrokerUnavailable("no broker there")
        url = f"memory:files-{next(_numbers)}"
        options = ServerOptions(directory=str(tmp_path), upload=True, events=url)
        service = make_service(options)
        app = FileServerApp(service, options)
        assert app.file_events is not None
        await app.file_events.start()
        files = Server(app, [])
        assert (await files.ask("PUT", "/a", b""))[0] == 201
        fault.error = None
        await loops.until(lambda: files.events.published == 1)
        source = file_events.default_source(str(tmp_path))
        async with noria.Bus(url, source=source) as bus:
            while not files.events.received:  # until the server has subscribed
                await bus.emit("file.created", path="/b")
                await asyncio.sleep(0.001)
        assert app.tus is not None
        app.tus.stop()
        await app.file_events.stop(1.0)
        service.close()

    with caplog.at_level(logging.WARNING, "noria"):
        run(main)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert messages[0].startswith("no broker there; ")
    assert messages[1].endswith("is there now")


def test_a_broker_that_is_missing_at_the_start_is_an_error(tmp_path: Path, fault: Fault) -> None:
    fault.error = BrokerUnavailable("no broker there; start one")
    with pytest.raises(BrokerUnavailable, match="start one"):
        serve_files(ServerOptions(directory=str(tmp_path), port=0, events="memory:missing"))
