"""noria run with servers and pytest: each worker is on noria's loop, watched and recorded."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from starting import HERE, environment, free_port, started

from noria.sight.recording import Recording
from noria.sight.socket_directory import watched_processes
from support.waiting import eventually

RUN = (sys.executable, "-m", "noria", "run", "--record", "run.noria")
NORIAS = "noria.aio.loop.EventLoop"
DEADLINE = 40.0  # seconds


@pytest.fixture(autouse=True)
def in_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


def get(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
        return str(answer.read().decode())


def whole_recordings(killed: int = 0) -> int:
    """Return the number of recordings with loops; all but *killed* must have been ended."""
    found = 0
    for path in Path().glob("*.noria"):
        if path.stat().st_size:
            with Recording.open(path) as recording:
                killed -= not list(recording.objects("end"))
                assert killed >= 0, path
                found += bool(recording.loops())
    return found


def check_server(
    *program: str, port: int, watched: int, workers: int, status: int, killed: int = 0
) -> None:
    with started(*RUN, *program, port=port, status=status), ThreadPoolExecutor(8) as pool:
        # A worker that does not serve yet would be killed by SIGTERM.
        pids: set[str] = set()
        asked = [port] * 20, ["/pid"] * 20
        eventually(lambda: pids.update(pool.map(get, *asked)) or len(pids) == workers, DEADLINE)
        eventually(lambda: len(watched_processes()) == watched, DEADLINE)
        assert {get(port, "/loop") for _ in range(20)} == {NORIAS}
    # A recording whose process was killed at once is empty.
    assert watched - killed <= whole_recordings(killed) <= watched
    assert watched_processes() == {}
    assert len(list(Path("noria").glob("*.sock"))) <= killed


# uvicorn and its workers raise the signal again after their shutdown; a parent exits with 0.
@pytest.mark.parametrize(("workers", "status"), [(1, -15), (2, 0)])
def test_uvicorn(workers: int, status: int) -> None:
    pytest.importorskip("uvicorn")
    port = free_port()
    program = ["-m", "uvicorn", "asgi_app:application", "--port", str(port)]
    program += ["--workers", str(workers)]
    check_server(*program, port=port, watched=workers, workers=workers, status=status)


def test_gunicorn() -> None:
    pytest.importorskip("gunicorn")
    pytest.importorskip("uvicorn_worker")
    port = free_port()
    program = ["-m", "gunicorn", "-k", "uvicorn_worker.UvicornWorker", "-w", "2"]
    program += ["-b", f"127.0.0.1:{port}", "asgi_app:application"]
    # The master process has a loop for its control socket.
    check_server(*program, port=port, watched=3, workers=2, status=0)


def test_hypercorn() -> None:
    pytest.importorskip("hypercorn")
    port = free_port()
    program = ["-m", "hypercorn", "asgi_app:application", "-w", "2", "-b", f"127.0.0.1:{port}"]
    # As soon as one worker has ended, the parent ends the other one with SIGTERM.
    check_server(*program, port=port, watched=2, workers=2, status=0, killed=1)


def test_uvicorn_reloads() -> None:
    pytest.importorskip("uvicorn")
    port = free_port()
    source = (HERE / "asgi_app.py").read_text()
    Path("reloaded.py").write_text(source)
    program = ["-m", "uvicorn", "reloaded:application", "--port", str(port)]
    program += ["--reload", "--reload-delay", "0.01"]
    with started(*RUN, *program, port=port):
        assert get(port, "/loop") == NORIAS
        first = set(watched_processes())
        changes: list[float] = []

        def reloaded() -> bool:
            # Not only once: uvicorn does not notice a change before its first look at the files.
            if not changes or time.monotonic() > changes[-1] + DEADLINE / 4:
                changes.append(time.monotonic())
                Path("changed").write_text(source.replace('f"{loop', 'f"again {loop'))
                Path("changed").rename("reloaded.py")  # one change, not a truncation and a write
            with contextlib.suppress(OSError):  # while no worker is there
                return get(port, "/loop") == f"again {NORIAS}"
            return False

        eventually(reloaded, DEADLINE)
        others = set(watched_processes()) - first
    assert 2 <= whole_recordings() <= 1 + len(changes)
    assert any(Path(f"run.{pid}.noria").exists() for pid in others)


TESTS = """
import asyncio
import anyio
import pytest

def check():
    cls = type(asyncio.get_running_loop())
    assert f"{cls.__module__}.{cls.__qualname__}" == "noria.aio.loop.EventLoop"

@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.mark.asyncio
async def test_pytest_asyncio():
    check()
    await asyncio.sleep(0.01)

@pytest.mark.asyncio(loop_scope="module")
async def test_pytest_asyncio_with_one_loop():
    check()

@pytest.mark.anyio
async def test_anyio():
    check()
    await anyio.sleep(0.01)

def test_without_a_plugin():
    async def main():
        check()
    asyncio.run(main())
    anyio.run(main)

def test_that_fails():
    assert not "planted"
"""


def test_pytest() -> None:
    pytest.importorskip("pytest_asyncio")
    pytest.importorskip("anyio")
    Path("test_it.py").write_text(TESTS)
    Path("pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope=function\n")
    done = subprocess.run(
        [*RUN, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        env=environment(), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert "1 failed, 4 passed" in done.stdout, done.stdout + done.stderr
    assert (done.returncode, done.stderr) == (1, "")
    assert whole_recordings() == 1


CHOOSES_UVLOOP = """
import asyncio, sys, warnings
warnings.simplefilter("ignore")
import uvloop

async def main():
    print(type(asyncio.get_running_loop()).__module__)

if sys.argv[1] == "run":
    uvloop.run(main())
elif sys.argv[1] == "install":
    uvloop.install()
    asyncio.run(main())
asyncio.run(main(), **({"loop_factory": None} if sys.version_info >= (3, 12) else {}))
"""


@pytest.mark.parametrize(
    ("how", "loops"),
    [("run", ["uvloop", "noria.aio.loop"]), ("install", ["uvloop"] * 2), ("", ["noria.aio.loop"])],
)
def test_a_program_that_chooses_uvloop_keeps_it(how: str, loops: list[str]) -> None:
    pytest.importorskip("uvloop")
    if sys.version_info >= (3, 16) and how == "install":
        pytest.skip("there is no uvloop.install")
    done = subprocess.run(
        [*RUN, "-c", CHOOSES_UVLOOP, how],
        env=environment(), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout.split()) == (0, loops)
    assert done.stderr.count("\n") == ("uvloop" in loops)
    assert ("runs uvloop's event loop" in done.stderr) == ("uvloop" in loops)
    assert os.path.exists("run.noria")
