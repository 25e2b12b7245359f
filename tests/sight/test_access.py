"""Only the user who runs a process, and root, can observe it."""

from __future__ import annotations

import json
import mmap
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import noria
from noria.sight.client import Client
from support.running import finish, line, start

PROGRAM = """
import asyncio, noria
async def main():
    print("ready", flush=True)
    await asyncio.sleep(60)
with noria.watch(report_blocks=False):
    noria.run(main())
"""

# Becomes another user once everything is imported: it may not be allowed to read the sources.
INTRUDER = """
import json, os, socket, sys
from noria.sight.client import Client
from noria.sight.flight_recorder import dump_process
pid, path, directory = int(sys.argv[1]), sys.argv[2], sys.argv[3]
os.seteuid(1)
other = socket.socket(socket.AF_UNIX)
other.bind(directory + "/other.sock")
other.listen()
os.chmod(directory + "/other.sock", 0o666)
os.seteuid(0)
os.setgroups([])
os.setgid(65534)
os.setuid(65534)

def outcome(function):
    try:
        return repr(function())
    except Exception as error:
        return f"{type(error).__name__}: {error}"

def speak():
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(path)
        sock.send(b'{"get":"hello"}\\n')
        return sock.recv(100)

def hello():
    with Client.connect(path) as client:
        return client.hello()

print(json.dumps({
    "speak": outcome(speak),
    "hello": outcome(hello),
    "dump": outcome(lambda: dump_process(pid, directory + "/dump.noria")),
    "other": outcome(lambda: Client.connect(directory + "/other.sock")),
}))
"""


@pytest.fixture
def directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory for sockets that every user can reach, unlike tmp_path."""
    path = Path(tempfile.mkdtemp(prefix="noria-access-", dir="/tmp"))
    path.chmod(0o777)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(path))
    try:
        yield path
    finally:
        shutil.rmtree(path)


def test_the_socket_and_the_rings_are_the_users_own(directory: Path) -> None:
    mask = os.umask(0)
    try:
        with noria.watch(report_blocks=False) as watch:
            assert watch.socket is not None
            for path, kind, mode in (
                (Path(watch.socket).parent, stat.S_IFDIR, 0o700),
                (Path(watch.socket), stat.S_IFSOCK, 0o600),
            ):
                found = path.lstat()
                assert (stat.S_IFMT(found.st_mode), stat.S_IMODE(found.st_mode)) == (kind, mode)
                assert found.st_uid == os.getuid()
    finally:
        os.umask(mask)


def test_a_ring_cannot_be_written_to(directory: Path) -> None:
    process = start(PROGRAM)
    try:
        assert line(process) == "ready"
        with Client.connect(process.pid) as client:
            fd = client.ring(0)
        try:
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.pwrite(fd, b"x", 0)
            with pytest.raises(PermissionError):
                mmap.mmap(fd, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        finally:
            os.close(fd)
    finally:
        process.kill()
        finish(process)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_is_refused(directory: Path) -> None:

    process = start(PROGRAM)
    try:
        assert line(process) == "ready"
        path = directory / "noria" / f"{process.pid}.sock"

        def attempt() -> dict[str, str]:
            intruder = start(INTRUDER, str(process.pid), str(path), str(directory))
            status, output, errors = finish(intruder)
            assert status == 0, errors
            (directory / "other.sock").unlink()
            found = json.loads(output)
            assert isinstance(found, dict)
            return found

        found = attempt()
        assert "Permission denied" in found["speak"]
        assert "Permission denied" in found["hello"]
        assert "Permission denied" in found["dump"]
        assert "belongs to another user" in found["other"]
        # Where the modes do not help, the credentials of the connection are checked.
        path.parent.chmod(0o755)
        path.chmod(0o666)
        found = attempt()
        refused = ("b''", "ConnectionResetError", "BrokenPipeError")
        assert found["speak"].startswith(refused)
        assert found["hello"].startswith(refused[1:])
        assert "Permission denied" in found["dump"]
        with Client.connect(path) as client:
            assert client.hello()["pid"] == process.pid
    finally:
        process.kill()
        finish(process)
