"""The server around the service: its threads, its upkeep, and that it ends clean."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import loops

pytest.importorskip("httptools")

from noria.fileserver import store, upkeep
from noria.fileserver.limits import Limits
from noria.fileserver.offloop import off
from noria.fileserver.paths import Root
from noria.fileserver.server import THREADS, Options, serve_files
from noria.servers.serve import ServerInfo


def serve(directory: Path, main: Callable[[int], Awaitable[None]], **options: Any) -> None:
    """Runs `main`, given the port, beside a server that ends with it."""
    outcome: list[asyncio.Task[None]] = []

    def ready(info: ServerInfo) -> None:
        async def beside() -> None:
            try:
                await asyncio.wait_for(main(int(info.addresses[0].rpartition(":")[2])), 30)
            finally:
                info.stop()

        outcome.append(asyncio.get_running_loop().create_task(beside()))

    serve_files(Options(directory=str(directory), port=0, **options), ready)
    outcome[0].result()
    assert not [one for one in threading.enumerate() if one.name.startswith("noria-disk")]


def left_behind(directory: Path) -> Path:
    """A part of an upload whose process was killed a while ago."""
    part = directory / ".noria-0123456789abcdef.part"
    part.write_bytes(b"half")
    os.utime(part, (1, 1))
    return part


def test_as_many_calls_wait_for_the_disk_as_there_are_threads(tmp_path: Path) -> None:
    async def main(_: int) -> None:
        all_are_there = threading.Barrier(THREADS)
        await asyncio.gather(*(off(all_are_there.wait, 20) for _ in range(THREADS)))

    serve(tmp_path, main)


def test_what_lost_uploads_left_is_removed_at_the_start_and_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "SECOND", 0.01)
    monkeypatch.setattr(upkeep, "EVERY", 0.01)
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
    serve(tmp_path, others)  # nothing may be changed there
    assert part.exists()


def test_a_sweep_that_fails_is_told_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(upkeep, "SECOND", 0.01)
    part = left_behind(tmp_path)
    fwalk, calls = os.fwalk, []

    def failing(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 1:
            raise OSError("of the test")
        return fwalk(*arguments, **options)

    async def main(_: int) -> None:
        await loops.until(lambda: not part.exists())

    with monkeypatch.context() as patched:
        patched.setattr(os, "fwalk", failing)
        serve(tmp_path, main, upload=True)
    assert "of the test" in caplog.text


def test_a_sweep_ends_in_the_middle_when_the_server_does(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / str(number)).mkdir()
        left_behind(tmp_path / str(number))
    answers = iter([False, False, False, True])
    root = Root(tmp_path)
    assert store.sweep(root, lambda: next(answers)) == 2
    assert store.sweep(root) == 3
    root.close()


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

    serve(tmp_path, main, tls=loops.server_context(), limits=Limits(connections=1))
