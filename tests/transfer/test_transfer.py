"""Sending and fetching: whole, in parts, verified, and never over what is there."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import inspect
import io
import json
import os
import pty
import select
import socket
import ssl
import stat
import sys
import threading
import tty
from pathlib import Path
from urllib.parse import quote

import pytest

pytest.importorskip("httpx")

import httpx

import noria
from noria.transfer import (
    connection_errors,
    file_digests,
    parsers,
    resume_state,
    retry,
    sinks,
    sources,
    tus,
)
from noria.transfer import get as getting
from noria.transfer import put as putting
from noria.transfer.errors import Failure
from noria.transfer.resume_state import Note, directory
from noria.transfer.session import Bar, Options, Outcome, all_of
from noria.transfer.sinks import PartFile
from support.loops import CERTIFICATE, until
from support.scripted_server import ScriptedServer, response
from support.small_fileserver import Server, keep_secret

DATA = bytes(range(256)) * 12_000  # 3 MB: over what one PUT sends


@pytest.fixture(autouse=True)
def apart(tmp_path, monkeypatch):
    """State of its own, no proxy, and no waiting between attempts."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(retry, "FIRST", 0.001)


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def here(tmp_path):
    (tmp_path / "here").mkdir()
    return tmp_path / "here"


@pytest.fixture
def server(root):
    with Server(root) as server:
        yield server


def get(server, path, output, *, recursive=False, bars=lambda _: Bar(), **options):
    urls = [server.url + path] if isinstance(path, str) else [server.url + each for each in path]
    return noria.run(getting.get(urls, output, Options(**options), recursive=recursive, bars=bars))


def put(server, source, path, **options):
    found = source if isinstance(source, list) else [source]
    return noria.run(putting.put(found, server.url + path, Options(**options)))


def names(directory: Path):
    return sorted(str(each.relative_to(directory)) for each in directory.rglob("*"))


# get


def test_get_puts_the_file_in_a_directory_under_its_name(server, root, here):
    (root / "a b.bin").write_bytes(DATA)
    os.utime(root / "a b.bin", (1e9, 1e9))
    [outcome] = get(server, "/a%20b.bin", here)
    assert (outcome.status, outcome.size, outcome.verified) == ("done", len(DATA), True)
    assert outcome.sha256 == hashlib.sha256(DATA).hexdigest()
    assert names(here) == ["a b.bin"]
    assert (here / "a b.bin").read_bytes() == DATA
    assert (here / "a b.bin").stat().st_mtime == 1e9


def test_get_of_an_empty_file(server, root, here):
    (root / "empty").touch()
    assert get(server, "/empty", here)[0].status == "done"
    assert names(here) == ["empty"]


def test_get_under_another_name_and_the_same_again_is_unchanged(server, root, here):
    (root / "a").write_bytes(b"hello")
    os.utime(root / "a", (1e9, 1e9))
    assert get(server, "/a", here / "b")[0].status == "done"
    assert get(server, "/a", here / "b")[0].status == "unchanged"
    assert names(here) == ["b"]


def test_get_does_not_write_over_another_file(server, root, here):
    (root / "a").write_bytes(b"new")
    (here / "a").write_bytes(b"mine!")
    [outcome] = get(server, "/a", here)
    assert outcome.status == "failed"
    assert outcome.error == f"{here / 'a'} exists; --overwrite replaces it"
    assert names(here) == ["a"]
    assert (here / "a").read_bytes() == b"mine!"
    assert get(server, "/a", here, overwrite=True)[0].status == "done"
    assert (here / "a").read_bytes() == b"new"


def test_get_does_not_write_over_a_file_that_appears_meanwhile(server, root, here):
    (root / "a").write_bytes(DATA)

    class Meddler(Bar):
        def start(self, done, total):
            (here / "a").write_bytes(b"mine")

    [outcome] = get(server, "/a", here, bars=lambda _: Meddler())
    assert "exists" in outcome.error
    assert (here / "a").read_bytes() == b"mine"


def test_get_goes_on_after_a_lost_connection(server, root, here):
    (root / "a").write_bytes(DATA)
    server.faults["GET"] = [("cut", 1_000_000), ("cut", 500_000), 503]
    [outcome] = get(server, "/a", here)
    assert (outcome.status, outcome.sent, outcome.verified) == ("done", len(DATA), True)
    assert (here / "a").read_bytes() == DATA
    ranges = [headers.get("range") for _, _, headers in server.seen]
    assert ranges == [None, "bytes=1000000-", "bytes=1500000-", "bytes=1500000-"]


def test_get_goes_on_in_another_run(server, root, here):
    (root / "a").write_bytes(DATA)
    server.faults["GET"] = [("cut", 1_000_000)]
    [outcome] = get(server, "/a", here, retries=0)
    assert outcome.status == "failed"
    assert names(here) == ["a.part"]
    [outcome] = get(server, "/a", here, retries=0)
    assert (outcome.status, outcome.sent) == ("done", len(DATA) - 1_000_000)
    assert outcome.sha256 == hashlib.sha256(DATA).hexdigest()
    assert names(here) == ["a"]
    assert os.listdir(directory()) == []


def test_a_part_is_kept_where_another_file_has_its_name(server, root, here):
    (root / "a").write_bytes(DATA)
    (here / "a").write_bytes(b"mine")
    server.faults["GET"] = [("cut", 1_000_000)]
    get(server, "/a", here, retries=0, overwrite=True)
    [outcome] = get(server, "/a", here, retries=0)
    assert outcome.error == f"{here / 'a'} exists; --overwrite replaces it"
    assert (here / "a.part").read_bytes() == DATA[:1_000_000]
    [outcome] = get(server, "/a", here, overwrite=True)
    assert (outcome.status, outcome.sent) == ("done", len(DATA) - 1_000_000)


def test_get_begins_again_if_the_file_is_another_by_then(server, root, here):
    (root / "a").write_bytes(DATA)
    server.faults["GET"] = [("cut", 1_000_000)]
    get(server, "/a", here, retries=0)
    (root / "a").write_bytes(DATA[::-1])
    [outcome] = get(server, "/a", here)
    assert (outcome.status, outcome.sent) == ("done", len(DATA))
    assert (here / "a").read_bytes() == DATA[::-1]


def test_a_part_that_is_whole_already_is_only_verified(server, root, here):
    (root / "a").write_bytes(DATA)
    server.faults["GET"] = [("cut", 1_000_000)]
    get(server, "/a", here, retries=0)
    (here / "a.part").write_bytes(DATA)
    [outcome] = get(server, "/a", here)
    assert (outcome.status, outcome.sent, outcome.verified) == ("done", 0, True)


def test_a_part_that_was_damaged_is_found_out_and_fetched_anew(server, root, here):
    (root / "a").write_bytes(DATA)
    server.faults["GET"] = [("cut", 1_000_000)]
    get(server, "/a", here, retries=0)
    (here / "a.part").write_bytes(b"\0" * 1_000_000)
    assert get(server, "/a", here)[0].status == "done"
    assert (here / "a").read_bytes() == DATA


def test_without_a_strong_etag_a_part_is_not_gone_on_with(root, here):
    (root / "a").write_bytes(DATA)
    with Server(root, etags=False, digests=False) as server:
        server.faults["GET"] = [("cut", 1_000_000)]
        [outcome] = get(server, "/a", here)
        assert (outcome.status, outcome.verified) == ("done", False)
        assert outcome.sent == len(DATA) + 1_000_000
        assert all("range" not in headers for _, _, headers in server.seen)


def test_a_wrong_checksum_is_an_error_and_leaves_no_file(server, root, here, monkeypatch):
    (root / "a").write_bytes(DATA)
    monkeypatch.setattr(
        "noria.transfer.parsers.sha256", lambda response: hashlib.sha256(b"x").hexdigest()
    )
    [outcome] = get(server, "/a", here, retries=1)
    assert "SHA-256" in outcome.error
    assert names(here) == []


def test_two_at_the_same_file_do_not_mix(server, root, here):
    (root / "a").write_bytes(DATA)
    server.faults["GET"] = [("cut", 1_000_000)] * 2
    outcomes = get(server, ["/a", "/a"], here)
    assert sorted(each.status for each in outcomes) == ["done", "failed"]
    assert "another noria get is writing it" in str([each.error for each in outcomes])
    assert (here / "a").read_bytes() == DATA


def test_get_says_what_the_server_said(server, here):
    [outcome] = get(server, "/none", here)
    assert outcome.error == "the server says 404 Not Found: there is no such file"
    assert server.methods() == {"GET": 1}
    assert names(here) == []


def test_get_gives_up_after_its_retries(server, root, here):
    (root / "a").touch()
    server.faults["GET"] = [503] * 10
    [outcome] = get(server, "/a", here, retries=2)
    assert "503" in outcome.error
    assert server.methods() == {"GET": 3}


def test_nobody_listens(here):
    with Server(here) as gone:
        pass
    [outcome] = get(gone, "/a", here, retries=0)
    assert outcome.error == f"cannot connect to {gone.url[7:]}: connection refused"


def test_what_is_waited_for_is_told(here):
    notes: list[str] = []

    class Listener(Bar):
        def note(self, text):
            notes.append(text)

    with Server(here) as gone:
        pass
    (here / "b").touch()
    said = f"cannot connect to {gone.url[7:]}: connection refused"
    get(gone, "/a", here, retries=2, bars=lambda _: Listener())
    url = f"{gone.url}/d/"
    noria.run(putting.put([here / "b"], url, Options(retries=1), bars=lambda _: Listener()))
    assert notes == [
        f"{said}; trying again in 0.0 s (1 of 2)",
        f"{said}; trying again in 0.0 s (2 of 2)",
        f"{said}; trying again in 0.0 s (1 of 1)",
    ]


def never(_):
    raise AssertionError("it must not be tried again")


def test_tls_that_cannot_be_is_not_tried_again(root, here):
    notes: list[str] = []

    class Listener(Bar):
        def note(self, text):
            notes.append(text)

    def fetch(server):
        url = server.url.replace("http:", "https:") + "/a"
        make = getting.get([url], here, Options(), bars=lambda _: Listener())
        [outcome] = noria.run(make)
        return outcome.error.removeprefix(f"cannot connect to {server.url[7:]}: ")

    with Server(root) as server:
        assert fetch(server) == "it does not speak TLS there; is it http:// in place of https://?"
    with Server(root) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        said = fetch(server)
    assert said.startswith("its certificate is not trusted (self")
    assert said.endswith("; --ca FILE names certificates to trust")
    assert notes == []


def test_a_name_that_nobody_has_is_not_tried_again(here):
    url = "http://nobody.invalid/a"
    no_name = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    error = httpx.ConnectError("x", request=httpx.Request("GET", url))
    error.__cause__ = no_name

    async def attempt():
        raise error

    said = "cannot connect to nobody.invalid:80: name or service not known"
    with pytest.raises(Failure, match=said):
        noria.run(retry.persist(attempt, 5, tell=never))
    error.__cause__ = socket.gaierror(socket.EAI_AGAIN, "Temporary failure")
    assert not connection_errors.lasting(error)


@pytest.mark.parametrize("path", ["/..%2Fetc", "/a%00b", "/%2e%2e"])
def test_a_url_that_ends_in_no_file_name(server, here, path):
    [outcome] = get(server, path, here)
    assert outcome.error == "the URL does not end in a usable file name; -o FILE gives one"
    assert names(here) == []


def test_a_url_that_ends_in_no_file_name_is_fetched_under_another(here):
    with ScriptedServer(lambda *_: response(body=b"hello")) as server:
        [outcome] = get(server, "/a%2Fb", here / "x")
    assert (outcome.status, outcome.error) == ("done", "")
    assert (here / "x").read_bytes() == b"hello"


def test_a_directory_in_the_place_of_a_file(server, root, here):
    (root / "x").touch()
    (here / "x").mkdir()
    [outcome] = get(server, "/x", here)
    hint = "is a directory here; -r fetches a directory, -o FILE gives another name"
    assert outcome.error == f"{here / 'x'} {hint}"


def test_the_root_has_a_name_in_messages(server, monkeypatch, here):
    monkeypatch.chdir(here)
    server.faults["GET"] = [503]
    bars = []
    get(server, "/", Path(), recursive=True, bars=lambda name: bars.append(name) or Bar())
    assert bars[-1] == f"{server.url}/"


def test_transfers_have_no_task_before_their_turn():
    most = 0

    async def do(outcome, bar):
        nonlocal most
        await asyncio.sleep(0)
        most = max(most, len(asyncio.all_tasks()))

    async def main():
        return await all_of(((Outcome(str(i), ""), Bar(), do) for i in range(100)), 3)

    assert [each.name for each in noria.run(main())] == [str(i) for i in range(100)]
    assert most <= 4


def test_get_to_a_pipe_goes_on_after_a_lost_connection(server, root):
    (root / "a").write_bytes(DATA)
    server.faults["GET"] = [("cut", 1_000_000)]
    file = io.BytesIO()
    [outcome] = noria.run(getting.get_to_pipe(server.url + "/a", file, Options()))
    assert (outcome.status, outcome.verified) == ("done", True)
    assert file.getvalue() == DATA


def test_get_to_a_pipe_that_cannot_go_on_is_an_error(root):
    (root / "a").write_bytes(DATA)
    with Server(root, etags=False) as server:
        server.faults["GET"] = [("cut", 1_000_000)]
        [outcome] = noria.run(getting.get_to_pipe(server.url + "/a", io.BytesIO(), Options()))
    assert "cannot go on" in outcome.error


def test_get_of_a_directory(server, root, here):
    (root / "d" / "inner").mkdir(parents=True)
    (root / "d" / "empty").mkdir()
    (root / "d" / "a#?&%.txt").write_bytes(b"a")
    (root / "d" / "inner" / "ü").write_bytes(b"b")
    outcomes = get(server, "/d/", here, recursive=True)
    assert {each.status for each in outcomes} == {"done"}
    assert names(here / "d") == ["a#?&%.txt", "empty", "inner", "inner/ü"]
    assert (here / "d" / "inner" / "ü").read_bytes() == b"b"


@pytest.mark.parametrize("path", ["/d/", "/d", "/", ""])
def test_get_of_a_directory_needs_r(server, root, here, path):
    (root / "d").mkdir()
    [outcome] = get(server, path, here / "x")
    assert outcome.error == "it is a directory: -r fetches all that is in it"
    assert names(here) == []


def test_get_follows_to_a_directory(server, root, here):
    (root / "d" / "inner").mkdir(parents=True)
    (root / "d" / "inner" / "a").write_bytes(b"a")
    (root / "b").write_bytes(b"b")
    outcomes = get(server, ["/d", "/b"], here, recursive=True)
    assert {each.status for each in outcomes} == {"done"}
    assert names(here) == ["b", "d", "d/inner", "d/inner/a"]
    assert get(server, "", here / "all", recursive=True)[0].status == "done"
    assert (here / "all" / "d" / "inner" / "a").read_bytes() == b"a"


def test_a_busy_server_is_asked_again_whether_it_is_a_directory(server, root, here):
    (root / "d").mkdir()
    (root / "d" / "a").touch()
    server.faults["HEAD"] = [503]
    assert get(server, "/d", here, recursive=True)[0].status == "done"
    assert names(here) == ["d", "d/a"]
    server.faults["HEAD"] = [503]
    assert put(server, here / "d" / "a", "/e/")[0].status == "done"


def test_get_does_not_follow_to_a_directory_of_another_host(server, root, here, monkeypatch):
    (root / "d").mkdir()
    monkeypatch.setattr(getting, "same_origin", lambda *_: False)
    [outcome] = get(server, "/d", here, recursive=True)
    assert outcome.error == f"it is a directory on another host: fetch {server.url}/d/"
    assert server.methods() == {"HEAD": 2}


def test_get_of_a_url_with_a_query_is_no_directory(server, root, here):
    (root / "d").mkdir()
    for recursive in (False, True):
        [outcome] = get(server, "/d/?archive=tar", here / str(recursive), recursive=recursive)
        assert outcome.status == "done"
        assert (here / str(recursive)).read_bytes() == b"archive=tar"
    [outcome] = get(server, "/d/?archive=tar", here)
    assert outcome.error == "the URL does not end in a usable file name; -o FILE gives one"


def test_a_directory_that_cannot_be_listed_leaves_the_others(server, root, here):
    for name in ("a", "b", "c"):
        (root / name).mkdir()
        (root / name / "file").touch()
    (here / "c").touch()
    server.forbidden.add("/b/")
    outcomes = get(server, "/", here, recursive=True)
    assert {(each.name, each.error) for each in outcomes if each.status == "failed"} == {
        (f"{server.url}/b/", "the server says 403 Forbidden: not for you"),
        (f"{server.url}/c/", f"{here / 'c'}: file exists"),
    }
    assert names(here) == ["a", "a/file", "c"]
    assert len(outcomes) == 3


def test_get_into_a_fifo(server, root, here):
    (root / "a").write_bytes(DATA)
    os.mkfifo(here / "fifo")
    (here / "link").symlink_to("fifo")
    for name in ("fifo", "link"):
        got: list[bytes] = []
        reader = threading.Thread(
            target=lambda got=got: got.append((here / "fifo").read_bytes()), daemon=True
        )
        reader.start()
        [outcome] = get(server, "/a", here / name, overwrite=True)
        reader.join(10)
        assert (outcome.status, outcome.verified, got) == ("done", True, [DATA])
    assert (here / "fifo").is_fifo()
    assert names(here) == ["fifo", "link"]


def test_get_into_a_fifo_that_nobody_reads(server, root, here):
    (root / "a").write_bytes(DATA)
    os.mkfifo(here / "fifo")
    [outcome] = get(server, "/a", here / "fifo", timeout=0.01)
    assert outcome.error == f"{here / 'fifo'} is a FIFO that nobody reads"
    assert (here / "fifo").is_fifo()


def test_get_into_a_device(server, root, here):
    (root / "a").write_bytes(DATA)
    ours, theirs = pty.openpty()
    try:
        tty.setraw(theirs)
        (root / "b").write_bytes(b"hello")
        (here / "link").symlink_to(os.ttyname(theirs))
        assert get(server, "/b", here / "link", overwrite=True)[0].status == "done"
        assert select.select([ours], [], [], 10)[0]
        assert os.read(ours, 100) == b"hello"
    finally:
        os.close(ours)
        os.close(theirs)
    for overwrite in (False, True):
        if not overwrite or os.geteuid():  # were it broken, root's /dev/null would be gone
            assert get(server, "/a", Path("/dev/null"), overwrite=overwrite)[0].status == "done"
    [outcome] = get(server, "/a", Path("/dev/full"))
    assert outcome.error == "no space left on device"
    assert names(here) == ["link"]


def test_get_does_not_replace_a_socket(server, root, here):
    (root / "a").touch()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(here / "s"))
        [outcome] = get(server, "/a", here / "s", overwrite=True)
    assert "is a socket" in outcome.error
    assert (here / "s").is_socket()


def test_get_does_not_write_over_a_disk_unasked(server, root, here):
    (root / "a").touch()
    try:
        os.mknod(here / "disk", stat.S_IFBLK | 0o600, os.makedev(259, 1 << 19))  # none has it
    except PermissionError:
        pytest.skip("only root may make devices")
    [outcome] = get(server, "/a", here / "disk")
    assert outcome.error == f"{here / 'disk'} is a disk; --overwrite writes over what is on it"


def test_get_follows_a_symbolic_link_to_a_file(server, root, here):
    (root / "a").write_bytes(b"new")
    (here / "d").mkdir()
    (here / "d" / "real").write_bytes(b"mine!")
    (here / "a").symlink_to("d/real")
    assert "exists; --overwrite" in get(server, "/a", here)[0].error
    assert get(server, "/a", here, overwrite=True)[0].status == "done"
    assert (here / "a").is_symlink()
    assert (here / "d" / "real").read_bytes() == b"new"
    assert names(here) == ["a", "d", "d/real"]


def test_get_does_not_make_what_a_symbolic_link_leads_to(server, root, here):
    (root / "a").touch()
    (here / "a").symlink_to("none")
    for overwrite in (False, True):
        [outcome] = get(server, "/a", here, overwrite=overwrite)
        assert outcome.error == f"{here / 'a'} is a symbolic link that leads to nothing"
    assert names(here) == ["a"]
    assert (here / "a").is_symlink()


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
    """What a run that is killed leaves, after it has received the blocks."""
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
        patch.setattr(sinks.os, "write", full)
        assert get(server, "/a", here)[0].error == "no space left on device"
    assert (here / "a.part").read_bytes() == DATA[:1000]
    [outcome] = get(server, "/a", here)
    assert (outcome.status, outcome.sent) == ("done", len(DATA) - 1000)
    assert names(here) == ["a"]


def test_a_part_is_the_same_by_another_path_and_login(server, root, here, monkeypatch):
    (root / "a").write_bytes(DATA)
    (here / "there").mkdir()
    (here / "link").symlink_to("there")
    monkeypatch.chdir(here / "there")
    server.faults["GET"] = [("cut", 1_000_000)]
    assert get(server, "/a", Path("../there/a"), retries=0)[0].status == "failed"
    url = server.url.replace("http://", "http://user:secret@")
    [outcome] = noria.run(getting.get([f"{url}/a"], here / "link" / "a", Options()))
    assert (outcome.status, outcome.sent) == ("done", len(DATA) - 1_000_000)
    assert names(here) == ["link", "there", "there/a"]


def test_parts_do_not_pile_up_where_no_state_can_be_kept(server, root, here, monkeypatch):
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
    hashed = file_digests.of_descriptor

    def replaced(*args):
        (here / "a.part").unlink()
        (here / "a.part").write_bytes(bytes(len(DATA)))
        return hashed(*args)

    monkeypatch.setattr(file_digests, "of_descriptor", replaced)
    sink = PartFile(here / "a", "http://h/a")
    assert sink.sha256() == hashlib.sha256(DATA).hexdigest()
    sink.close()


def test_a_run_that_is_interrupted_does_not_wait_for_the_hash_of_a_part(here, monkeypatch):
    killed(here, DATA)
    os.truncate(here / "a.part", 1 << 40)  # hashing it would take some hours
    begun = threading.Event()
    pread = os.pread

    def noticed(fd, size, offset):
        if offset:
            begun.set()
        return pread(fd, size, offset)

    async def main():
        task = asyncio.create_task(getting.get(["http://h/a"], here, Options()))
        monkeypatch.setattr(file_digests.os, "pread", noticed)
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


def test_a_part_beside_an_unrelated_one_is_gone_on_with(server, root, here):
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


def test_a_part_without_an_etag_is_begun_again_in_its_place(root, here):
    (root / "a").write_bytes(DATA)
    with Server(root, etags=False) as server:
        server.faults["GET"] = [("cut", 1_000_000)]
        get(server, "/a", here, retries=0)
        assert names(here) == ["a.part"]
        server.faults["GET"] = [503]
        get(server, "/a", here, retries=0)
        assert (here / "a.part").read_bytes() == DATA[:1_000_000]  # nothing better has come yet
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

    class Meddler(Bar):
        def start(self, done, total):
            (here / "a.part").unlink()
            (here / "a.part").write_bytes(b"mine")

    [outcome] = get(server, "/a", here, bars=lambda _: Meddler())
    said = f"{here / 'a.part'} was moved or replaced while it was written; fetch it again"
    assert outcome.error == said
    assert (here / "a.part").read_bytes() == b"mine"
    assert names(here) == ["a.part"]


@pytest.mark.parametrize("fault", [errno.EOPNOTSUPP, errno.ENOENT])
def test_get_where_files_cannot_be_made_without_a_name(server, root, here, monkeypatch, fault):
    """Such file systems (NFS) refuse O_TMPFILE; without /proc it has no way to a name."""
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


def test_a_new_file_has_the_usual_mode(server, root, here):
    (root / "a").touch()
    before = os.umask(0o027)
    try:
        get(server, "/a", here)
    finally:
        os.umask(before)
    assert (here / "a").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("name", ["../up", "..", "/etc/x", "a\0b", "", "."])
@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_server_cannot_write_elsewhere(root, here, name, kind):
    entries = [{"name": name, "type": kind}, {"name": "good", "type": "file"}]
    (root / "good").touch()
    with Server(root, listings={"/": entries}) as server:
        outcomes = get(server, "/", here, recursive=True)
    assert [each.status for each in outcomes] == ["failed", "done"]
    assert "as a file's name" in outcomes[0].error
    assert names(here.parent) == [
        "here",
        "here/good",
        "root",
        "root/good",
        "state",
        *(each for each in names(here.parent) if each.startswith("state/")),
    ]


# put


def test_put_of_a_small_file_is_one_request(server, root, here):
    (here / "a b").write_bytes(b"hello")
    [outcome] = put(server, here / "a b", "/")
    assert (outcome.status, outcome.verified) == ("done", True)
    assert (root / "a b").read_bytes() == b"hello"
    assert server.methods() == {"PUT": 1}
    headers = server.seen[0][2]
    assert headers["x-checksum-sha256"] == hashlib.sha256(b"hello").hexdigest()
    assert headers["if-none-match"] == "*"


def test_put_of_a_large_file_goes_in_parts(server, root, here, monkeypatch):
    monkeypatch.setattr(tus, "CHUNK", 1 << 20)
    (here / "a").write_bytes(DATA)
    [outcome] = put(server, here / "a", "/b")
    assert (outcome.status, outcome.size, outcome.verified) == ("done", len(DATA), True)
    assert outcome.sha256 == hashlib.sha256(DATA).hexdigest()
    assert (root / "b").read_bytes() == DATA
    assert server.methods() == {"OPTIONS": 1, "HEAD": 1, "POST": 1, "PATCH": 3}
    assert os.listdir(directory()) == []


def test_put_goes_on_after_lost_connections_and_errors(server, root, here, monkeypatch):
    monkeypatch.setattr(tus, "CHUNK", 1 << 20)
    (here / "a").write_bytes(DATA)
    server.faults["PATCH"] = [("cut", 1000), 503, ("cut", 0)]
    [outcome] = put(server, here / "a", "/a")
    assert outcome.status == "done"
    assert (root / "a").read_bytes() == DATA
    assert server.methods() == {"OPTIONS": 1, "POST": 1, "PATCH": 6, "HEAD": 7}


def test_put_goes_on_in_another_run(server, root, here, monkeypatch):
    monkeypatch.setattr(tus, "CHUNK", 1 << 20)
    (here / "a").write_bytes(DATA)
    server.faults["PATCH"] = [None, 503]
    assert put(server, here / "a", "/a", retries=0)[0].status == "failed"
    assert not (root / "a").exists()
    [outcome] = put(server, here / "a", "/a", retries=0)
    assert (outcome.status, outcome.sent) == ("done", len(DATA) - (1 << 20))
    assert outcome.sha256 == hashlib.sha256(DATA).hexdigest()
    assert (root / "a").read_bytes() == DATA
    assert server.methods()["POST"] == 1


def test_put_begins_again_if_the_file_is_another_by_then(server, root, here, monkeypatch):
    monkeypatch.setattr(tus, "CHUNK", 1 << 20)
    (here / "a").write_bytes(DATA)
    server.faults["PATCH"] = [None, 503]
    put(server, here / "a", "/a", retries=0)
    (here / "a").write_bytes(DATA[::-1])
    assert put(server, here / "a", "/a")[0].status == "done"
    assert (root / "a").read_bytes() == DATA[::-1]
    assert list(server.uploads) == ["2"]  # the first was ended


def test_put_begins_again_if_the_server_has_given_it_up(server, root, here, monkeypatch):
    monkeypatch.setattr(tus, "CHUNK", 1 << 20)
    (here / "a").write_bytes(DATA)
    server.faults["PATCH"] = [None, 503]
    put(server, here / "a", "/a", retries=0)
    server.uploads.clear()
    assert put(server, here / "a", "/a")[0].status == "done"
    assert (root / "a").read_bytes() == DATA


def test_put_is_told_of_a_file_that_came_to_be_there_meanwhile(server, root, here, monkeypatch):
    monkeypatch.setattr(tus, "CHUNK", 1 << 20)
    (here / "a b").write_bytes(DATA)
    server.faults["PATCH"] = [None, 412]
    [outcome] = put(server, here / "a b", "/a%20b")
    assert (outcome.status, outcome.error) == ("failed", "/a b exists; --overwrite replaces it")
    assert os.listdir(directory()) == []  # nothing is left to go on with


def test_put_to_a_server_without_tus(root, here):
    (here / "a").write_bytes(DATA)
    with Server(root, tus=False) as server:
        server.faults["PUT"] = [("cut", 1000)]
        assert put(server, here / "a", "/a")[0].status == "done"
        assert server.methods() == {"OPTIONS": 1, "PUT": 2}
    assert (root / "a").read_bytes() == DATA


@pytest.mark.parametrize("data", [b"new", DATA])
def test_put_does_not_write_over_another_file(server, root, here, data):
    (here / "a").write_bytes(data)
    (root / "a").write_bytes(b"theirs")
    [outcome] = put(server, here / "a", "/a")
    assert (outcome.status, "--overwrite" in outcome.error) == ("failed", True)
    assert (root / "a").read_bytes() == b"theirs"
    assert put(server, here / "a", "/a", overwrite=True)[0].status == "done"
    assert (root / "a").read_bytes() == data


@pytest.mark.parametrize("data", [b"same", DATA])
def test_put_of_what_is_there_already_is_unchanged(server, root, here, data):
    (here / "a").write_bytes(data)
    (root / "a").write_bytes(data)
    assert put(server, here / "a", "/a")[0].status == "unchanged"


def test_put_of_directories(server, root, here):
    (here / "d" / "inner").mkdir(parents=True)
    (here / "d" / "a#?&%.txt").write_bytes(b"a")
    (here / "d" / "inner" / "ü").write_bytes(b"b")
    (here / "d" / "pipe").unlink(missing_ok=True)
    os.mkfifo(here / "d" / "pipe")
    (here / "d" / "link").symlink_to(here)
    outcomes = put(server, here / "d", "/")
    assert sorted((Path(each.name).name, each.status) for each in outcomes) == [
        ("a#?&%.txt", "done"),
        ("link", "failed"),
        ("pipe", "failed"),
        ("ü", "done"),
    ]
    assert names(root) == ["d", "d/a#?&%.txt", "d/inner", "d/inner/ü"]
    assert {each.status for each in put(server, here / "d" / "inner", "/d/")} == {"unchanged"}


def test_put_says_what_the_server_said(server, here):
    (here / "a").write_bytes(b"hello")
    [outcome] = put(server, here / "a", "/none/a")
    assert outcome.error == "the server says 409 Conflict: there is no such directory"


def test_put_makes_the_directory_and_those_above(server, root, here):
    (here / "a").write_bytes(b"a")
    (here / "d" / "inner").mkdir(parents=True)
    (here / "d" / "inner" / "b").write_bytes(b"b")
    outcomes = put(server, [here / "a", here / "d"], "/x/y%20z/")
    assert {each.status for each in outcomes} == {"done"}
    assert names(root) == [
        "x",
        "x/y z",
        "x/y z/a",
        "x/y z/d",
        "x/y z/d/inner",
        "x/y z/d/inner/b",
    ]


def test_put_to_a_directory_that_cannot_be_made_is_one_error(server, root, here):
    for name in ("a", "b"):
        (here / name).touch()
    server.faults["MKCOL"] = [403]
    [outcome] = put(server, [here / "a", here / "b"], "/x/")
    assert (outcome.status, outcome.name) == ("failed", f"{server.url}/x/")
    assert outcome.error == "the server says 403 Forbidden: it does not allow this"
    assert server.methods() == {"HEAD": 1, "MKCOL": 1}


def test_what_is_beneath_a_directory_that_cannot_be_made_is_not_sent(server, root, here):
    (here / "d" / "inner").mkdir(parents=True)
    (here / "d" / "inner" / "a").touch()
    (here / "e").touch()
    server.faults["MKCOL"] = [403]
    outcomes = put(server, [here / "d", here / "e"], "/")
    assert [(Path(each.name).name, each.status) for each in outcomes] == [
        ("d", "failed"),
        ("e", "done"),
    ]
    assert names(root) == ["e"]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("data", [b"small", DATA])
def test_put_says_that_a_directory_is_there(server, root, here, data, overwrite):
    (here / "a").write_bytes(data)
    (root / "d e").mkdir()
    said = '/d e is a directory: end the URL in "/" to put files into it'
    [outcome] = put(server, here / "a", "/d%20e", overwrite=overwrite)
    assert outcome.error == said
    options = Options(overwrite=overwrite)
    url = f"{server.url}/d%20e"
    [outcome] = noria.run(putting.put_from_pipe(io.BytesIO(data), url, options))
    assert outcome.error == said


def test_put_of_a_file_that_cannot_be_read_leaves_the_others(server, root, here, monkeypatch):
    (here / "a").touch()
    (here / "secret").touch()
    keep_secret(monkeypatch)
    outcomes = put(server, [here / "secret", here / "a"], "/")
    assert [(each.status, each.error) for each in outcomes] == [
        ("failed", "permission denied"),
        ("done", ""),
    ]


def test_a_symbolic_link_to_itself_leaves_the_others(server, root, here):
    (here / "d").mkdir()
    (here / "d" / "loop").symlink_to("loop")
    (here / "d" / "z").write_bytes(b"z")
    bad, good = put(server, here / "d", "/")
    assert (bad.name, bad.error) == (f"{here / 'd' / 'loop'}", "too many levels of symbolic links")
    assert good.status == "done"
    assert names(root) == ["d", "d/z"]


def test_put_of_a_missing_file(server, here):
    [outcome] = put(server, here / "none", "/")
    assert outcome.error == "no such file or directory"
    assert not server.seen


def test_a_tree_that_is_deeper_than_python_recurses(here):
    made = [here]
    for _ in range(1200):
        made.append(made[-1] / "d")
        made[-1].mkdir()
    try:
        found = list(sources.items([here], "http://h/"))
    finally:
        for path in reversed(made):  # pytest's own removal recurses
            path.rmdir()
    assert [each.path for each in found] == made
    assert not any(each.problem for each in found)


def test_all_directories_above_are_made_without_recursion(server, root, here):
    (here / "a").touch()
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 200)
    try:
        [outcome] = put(server, here / "a", "/" + "d/" * 200)
    finally:
        sys.setrecursionlimit(limit)
    assert outcome.status == "done"
    assert Path(root, *["d"] * 200, "a").exists()


def test_several_files_need_a_directory():
    with pytest.raises(Failure, match=r'several files .* end the URL in "/": http://h/x/'):
        list(sources.items([Path("a"), Path("b")], "http://h/x"))


def test_a_directory_needs_one_to_go_into(here):
    with pytest.raises(Failure, match=r'here is a directory.* end the URL in "/": http://h/x/'):
        list(sources.items([here], "http://h/x"))


def test_put_from_a_pipe(server, root):
    url = server.url + "/a"
    [outcome] = noria.run(putting.put_from_pipe(io.BytesIO(DATA), url, Options()))
    assert (outcome.status, outcome.size) == ("done", len(DATA))
    assert (root / "a").read_bytes() == DATA
    [outcome] = noria.run(putting.put_from_pipe(io.BytesIO(b"x"), url, Options()))
    assert "exists" in outcome.error


def test_put_from_a_pipe_is_not_tried_again(server, root):
    server.faults["PUT"] = [503, 503]
    [outcome] = noria.run(putting.put_from_pipe(io.BytesIO(b"x"), server.url + "/a", Options()))
    assert "503" in outcome.error
    assert server.methods() == {"PUT": 1}


def test_an_upload_is_not_sent_to_another_host(server, here, monkeypatch):
    (here / "a").write_bytes(DATA)
    monkeypatch.setattr("noria.transfer.tus.same_origin", lambda *_: False)
    assert "another host" in put(server, here / "a", "/a")[0].error


def test_same_origin():
    assert tus.same_origin("http://h/x", "http://h:80/y")
    assert not tus.same_origin("http://h/x", "https://h/x")
    assert not tus.same_origin("http://h.example/x", "http://h/x")
    assert not tus.same_origin("http://h@other/x", "http://h/x")


# logins and state


@pytest.mark.parametrize(
    ("login", "options"),
    [
        ("Bearer secret", {"token": "secret"}),
        ("Basic dTpw", {"auth": ("u", "p")}),
    ],
)
def test_logins(root, here, login, options):
    (here / "a").write_bytes(DATA)
    with Server(root, login=login) as server:
        [outcome] = put(server, here / "a", "/a")
        assert "401 Unauthorized: who are you?" in outcome.error
        assert "--token" in outcome.error
        [outcome] = put(server, here / "a", "/a", token="wrong")
        assert outcome.error.endswith("who are you? (the login was refused; is it the right one?)")
        assert "--token" not in outcome.error
        assert put(server, here / "a", "/a", **options)[0].status == "done"
        assert get(server, "/a", here / "b", **options)[0].status == "done"


def test_notes_are_private_and_bear_damage():
    note = Note("put", "a", "b")
    assert note.read() == {}
    note.write(upload="x")
    assert note.read() == {"upload": "x"}
    assert note.path.stat().st_mode & 0o777 == 0o600
    for damage in (b"{", b"[1]", b"\xff"):
        note.path.write_bytes(damage)
        assert note.read() == {}
    note.path.write_text(json.dumps({"upload": "y"}))
    note.forget()
    note.forget()
    assert note.read() == {}


def test_state_that_cannot_be_kept_is_a_warning_and_not_an_error(server, root, here, monkeypatch):
    (here / "no").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(here / "no"))
    monkeypatch.setattr(resume_state, "_told", set())
    for name in ("a", "b"):
        (here / name).write_bytes(DATA)
    notes: list[str] = []

    class Listener(Bar):
        def note(self, text):
            notes.append(text)

    url = f"{server.url}/"
    options = Options()
    for _ in range(2):
        outcomes = noria.run(
            putting.put([here / "a", here / "b"], url, options, bars=lambda _: Listener())
        )
        assert {each.status for each in outcomes} <= {"done", "unchanged"}
    [note] = notes
    assert "not a directory; if it is interrupted, the next run begins anew" in note
    resume_state._told.clear()
    assert get(server, "/a", here / "c", bars=lambda _: Listener())[0].status == "done"
    assert len(notes) == 2


def test_a_relative_state_home_counts_as_none(monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "here")
    monkeypatch.setenv("HOME", "/home/x")
    assert directory() == Path("/home/x/.local/state/noria/transfers")


def test_a_reason_is_part_of_a_sentence():
    error = httpx.RemoteProtocolError("Server disconnected without sending a response.")
    assert retry.reason(error) == "Server disconnected without sending a response"


def test_pauses_grow_to_a_limit(monkeypatch):
    monkeypatch.setattr(retry, "FIRST", 0.5)
    assert 0.25 <= retry.pause(1) <= 0.5
    assert 2 <= retry.pause(4) <= 4
    assert 15 <= retry.pause(100) <= 30


@pytest.mark.parametrize(("value", "seconds"), [("3", 3), ("9999", 300), ("", 0), ("x", 0)])
def test_retry_after(value, seconds):
    assert parsers.retry_after(value) == seconds
