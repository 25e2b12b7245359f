"""Part files of noria get: resumed, and never confused with files of others."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import os
import threading
from pathlib import Path
from urllib.parse import quote

import pytest

import noria
from noria.http import digests
from noria.transfer import get as downloads
from noria.transfer import (
    part_file,
)
from noria.transfer.options import TransferOptions
from noria.transfer.part_file import PartFile
from noria.transfer.progress import ProgressReporter
from support.loops import until
from support.small_fileserver import Server
from support.transfers import DATA, get, names


def test_a_part_that_is_no_regular_file_is_left_alone(server, root, here):
    (root / "a").touch()
    os.mkfifo(here / "a.part")
    [outcome] = get(server, "/a", here)
    assert outcome.error == f"{here / 'a.part'} is in the way: it is not a regular file"
    assert (here / "a.part").is_fifo()


@pytest.mark.parametrize("content", [b"mine", b""])
@pytest.mark.parametrize("etags", [True, False])
def test_an_unrelated_part_is_left_alone(root, here, content, etags):
    (root / "a").write_bytes(DATA)
    (here / "a.part").write_bytes(content)
    with Server(root, etags=etags) as server:
        assert get(server, "/a", here)[0].status == "done"
    assert (here / "a").read_bytes() == DATA
    assert (here / "a.part").read_bytes() == content
    assert names(here) == ["a", "a.part"]


def test_an_unrelated_part_is_left_alone_when_nothing_can_be_fetched(server, here):
    (here / "a.part").write_bytes(b"")
    assert get(server, "/none", here / "a")[0].status == "failed"
    assert names(here) == ["a.part"]


def killed(here, *blocks):
    """Leave the files of a run that was killed after it had received the blocks."""
    sink = PartFile(here / "a", "http://h/a")
    if blocks:
        sink.restart('"e"')
    for block in blocks:
        sink.write(block)
    os.close(sink._fd)


@pytest.mark.parametrize("blocks", [[], [b"x"], [b"x"] * 20, [b"x", DATA]])
def test_the_part_of_a_killed_run_is_recognised(here, blocks):
    killed(here, *blocks)
    sink = PartFile(here / "a", "http://h/a")
    assert (sink.path, sink.size) == (here / "a.part", sum(map(len, blocks)))
    sink.close()


@pytest.mark.parametrize("blocks", [[], [b"x"], [b"x", b"y"]])
def test_a_file_that_shares_a_few_bytes_with_a_part_is_left_alone(here, blocks):
    killed(here, *blocks)
    (here / "a.part").write_bytes(b"xyz: mine")
    sink = PartFile(here / "a", "http://h/a")
    assert sink.path == here / "a.1.part"
    sink.close()


def test_a_part_that_a_full_disk_cut_short_is_resumed(server, root, here, monkeypatch):
    (root / "a").write_bytes(DATA)
    write, written = os.write, []

    def full(fd, data):
        if written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(data)
        return write(fd, data[:1000])

    with monkeypatch.context() as patch:
        patch.setattr(part_file.os, "write", full)
        assert get(server, "/a", here)[0].error == "no space left on device"
    assert (here / "a.part").read_bytes() == DATA[:1000]
    [outcome] = get(server, "/a", here)
    assert (outcome.status, outcome.sent) == ("done", len(DATA) - 1000)
    assert names(here) == ["a"]


def test_a_part_is_resumed_by_another_path_and_login(server, root, here, monkeypatch):
    (root / "a").write_bytes(DATA)
    (here / "there").mkdir()
    (here / "link").symlink_to("there")
    monkeypatch.chdir(here / "there")
    server.faults["GET"] = [("cut", 1_000_000)]
    assert get(server, "/a", Path("../there/a"), retries=0)[0].status == "failed"
    url = server.url.replace("http://", "http://user:secret@")
    [outcome] = noria.run(downloads.get([f"{url}/a"], here / "link" / "a", TransferOptions()))
    assert (outcome.status, outcome.sent) == ("done", len(DATA) - 1_000_000)
    assert names(here) == ["link", "there", "there/a"]


def test_parts_do_not_accumulate_without_records(server, root, here, monkeypatch):
    (root / "a").write_bytes(DATA)
    (root / "no").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(root / "no"))
    server.faults["GET"] = [("cut", 1_000_000)]
    assert get(server, "/a", here, retries=0)[0].status == "failed"
    assert names(here) == []
    (here / "a.part").write_bytes(b"killed")
    assert get(server, "/a", here / "a")[0].status == "done"
    (here / "a").unlink()
    (here / "a.1.part").write_bytes(b"killed too")
    [outcome] = get(server, "/a", here)
    assert outcome.error.startswith(f"{here / 'a.part'} and other parts are in the way, and none")
    assert names(here) == ["a.1.part", "a.part"]


def test_a_part_that_is_replaced_while_it_is_opened_is_not_what_is_verified(here, monkeypatch):
    killed(here, DATA)
    hashed = part_file.hash_file

    def replaced(*args):
        (here / "a.part").unlink()
        (here / "a.part").write_bytes(bytes(len(DATA)))
        return hashed(*args)

    monkeypatch.setattr(part_file, "hash_file", replaced)
    sink = PartFile(here / "a", "http://h/a")
    assert sink.sha256() == hashlib.sha256(DATA).hexdigest()
    sink.close()


def test_a_run_that_is_interrupted_does_not_wait_for_the_hash_of_a_part(here, monkeypatch):
    killed(here, DATA)
    os.truncate(here / "a.part", 1 << 40)  # hashing it would take hours
    begun = threading.Event()
    pread = os.pread

    def noticed(fd, size, offset):
        if offset:
            begun.set()
        return pread(fd, size, offset)

    async def main():
        task = asyncio.create_task(downloads.get(["http://h/a"], here, TransferOptions()))
        monkeypatch.setattr(digests.os, "pread", noticed)
        await until(begun.is_set)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    noria.run(main())
    assert (here / "a.part").stat().st_size == 1 << 40
    monkeypatch.undo()
    assert not is_locked(here / "a.part")


def is_locked(path):
    with open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def test_a_part_next_to_an_unrelated_one_is_resumed(server, root, here):
    (root / "a").write_bytes(DATA)
    (here / "a.part").write_bytes(b"mine")
    server.faults["GET"] = [("cut", 1_000_000)]
    assert get(server, "/a", here, retries=0)[0].status == "failed"
    assert names(here) == ["a.1.part", "a.part"]
    [outcome] = get(server, "/a", here)
    assert (outcome.status, outcome.sent) == ("done", len(DATA) - 1_000_000)
    assert (here / "a.part").read_bytes() == b"mine"
    assert names(here) == ["a", "a.part"]


def test_a_file_in_the_place_of_an_earlier_part_is_left_alone(server, root, here):
    (root / "a").write_bytes(DATA)
    server.faults["GET"] = [("cut", 1_000_000)]
    get(server, "/a", here, retries=0)
    (here / "a.part").unlink()
    (here / "a.part").write_bytes(b"mine")
    [outcome] = get(server, "/a", here)
    assert (outcome.status, outcome.sent) == ("done", len(DATA))
    assert (here / "a.part").read_bytes() == b"mine"


def test_a_part_of_another_url_is_left_alone(server, root, here):
    (root / "a").write_bytes(DATA)
    (root / "d").mkdir()
    (root / "d" / "a").write_bytes(b"small")
    server.faults["GET"] = [("cut", 1_000_000)]
    get(server, "/a", here, retries=0)
    assert get(server, "/d/a", here)[0].status == "done"
    assert (here / "a").read_bytes() == b"small"
    assert (here / "a.part").read_bytes() == DATA[:1_000_000]


def test_a_part_without_an_etag_is_restarted_in_place(root, here):
    (root / "a").write_bytes(DATA)
    with Server(root, etags=False) as server:
        server.faults["GET"] = [("cut", 1_000_000)]
        get(server, "/a", here, retries=0)
        assert names(here) == ["a.part"]
        server.faults["GET"] = [503]
        get(server, "/a", here, retries=0)
        assert (here / "a.part").read_bytes() == DATA[:1_000_000]  # until the server sends the file
        assert get(server, "/a", here)[0].status == "done"
    assert names(here) == ["a"]


@pytest.mark.parametrize("jobs", [1, 4])
@pytest.mark.parametrize("kind", ["file", "directory", "empty directory"])
def test_get_of_a_directory_with_a_file_and_its_part(server, root, here, jobs, kind):
    (root / "d").mkdir()
    for name in ("a", "a.part", "a.1.part", "a.part.part"):
        if kind != "file" and name == "a.part":
            (root / "d" / name).mkdir()
            if kind == "directory":
                (root / "d" / name / "b").write_bytes(DATA)
        else:
            (root / "d" / name).write_bytes(DATA + name.encode())
    outcomes = get(server, "/d/", here, recursive=True, jobs=jobs)
    assert [each.error for each in outcomes if each.status != "done"] == []
    assert names(here / "d") == names(root / "d")
    for path in (path for path in (root / "d").rglob("*") if path.is_file()):
        assert (here / path.relative_to(root)).read_bytes() == path.read_bytes()


def test_a_part_that_is_replaced_meanwhile_is_left_alone(server, root, here):
    (root / "a").write_bytes(DATA)

    class Meddler(ProgressReporter):
        def start(self, done, total):
            (here / "a.part").unlink()
            (here / "a.part").write_bytes(b"mine")

    [outcome] = get(server, "/a", here, new_reporter=lambda _: Meddler())
    said = f"{here / 'a.part'} was moved or replaced during the download; run the command again"
    assert outcome.error == said
    assert (here / "a.part").read_bytes() == b"mine"
    assert names(here) == ["a.part"]


@pytest.mark.parametrize("fault", [errno.EOPNOTSUPP, errno.ENOENT])
def test_get_where_files_cannot_be_made_without_a_name(server, root, here, monkeypatch, fault):
    """Such file systems (NFS) refuse O_TMPFILE; without /proc such a file cannot be linked."""
    (root / "a").write_bytes(DATA)
    (here / "a.part").write_bytes(b"mine")
    opened, linked = os.open, os.link

    def no_open(path, flags, *more, **options):
        if flags & os.O_TMPFILE == os.O_TMPFILE and fault == errno.EOPNOTSUPP:
            raise OSError(fault, os.strerror(fault))
        return opened(path, flags, *more, **options)

    def no_link(source, target, **options):
        if str(source).startswith("/proc"):
            raise OSError(fault, os.strerror(fault))
        return linked(source, target, **options)

    monkeypatch.setattr(os, "open", no_open)
    monkeypatch.setattr(os, "link", no_link)
    assert get(server, "/a", here)[0].status == "done"
    assert (here / "a").read_bytes() == DATA
    assert (here / "a.part").read_bytes() == b"mine"
    assert names(here) == ["a", "a.part"]


@pytest.mark.parametrize("name", ["n" * 255, "n" * 251, "\u2603" * 85])
def test_get_of_a_file_whose_part_would_have_too_long_a_name(server, root, here, name):
    (root / name).write_bytes(DATA)
    server.faults["GET"] = [("cut", 1_000_000)]
    assert get(server, f"/{quote(name)}", here, retries=0)[0].status == "failed"
    [part] = names(here)
    assert part.endswith(".part")
    assert part.startswith(name[:80])
    [outcome] = get(server, f"/{quote(name)}", here)
    assert (outcome.status, outcome.sent) == ("done", len(DATA) - 1_000_000)
    assert names(here) == [name]
