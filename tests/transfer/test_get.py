"""noria get: whole files, directories, retries, and targets that exist."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import pty
import select
import socket
import ssl
import stat
import threading
import tty
from pathlib import Path

import httpx
import pytest

import noria
from noria.transfer import (
    connection_errors,
    retry,
)
from noria.transfer import get as downloads
from noria.transfer import put as uploads
from noria.transfer.errors import TransferError
from noria.transfer.options import TransferOptions
from noria.transfer.progress import Outcome, ProgressReporter
from noria.transfer.resume_state import records_directory
from noria.transfer.session import run_transfers
from support.loops import CERTIFICATE
from support.scripted_server import ScriptedServer, response
from support.small_fileserver import Server
from support.transfers import DATA, Messages, get, names, put


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

    class Meddler(ProgressReporter):
        def start(self, done, total):
            (here / "a").write_bytes(b"mine")

    [outcome] = get(server, "/a", here, new_reporter=lambda _: Meddler())
    assert "exists" in outcome.error
    assert (here / "a").read_bytes() == b"mine"


def test_get_resumes_after_a_lost_connection(server, root, here):
    (root / "a").write_bytes(DATA)
    server.faults["GET"] = [("cut", 1_000_000), ("cut", 500_000), 503]
    [outcome] = get(server, "/a", here)
    assert (outcome.status, outcome.sent, outcome.verified) == ("done", len(DATA), True)
    assert (here / "a").read_bytes() == DATA
    ranges = [headers.get("range") for _, _, headers in server.seen]
    assert ranges == [None, "bytes=1000000-", "bytes=1500000-", "bytes=1500000-"]


def test_get_resumes_in_another_run(server, root, here):
    (root / "a").write_bytes(DATA)
    server.faults["GET"] = [("cut", 1_000_000)]
    [outcome] = get(server, "/a", here, retries=0)
    assert outcome.status == "failed"
    assert names(here) == ["a.part"]
    [outcome] = get(server, "/a", here, retries=0)
    assert (outcome.status, outcome.sent) == ("done", len(DATA) - 1_000_000)
    assert outcome.sha256 == hashlib.sha256(DATA).hexdigest()
    assert names(here) == ["a"]
    assert os.listdir(records_directory()) == []


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


def test_get_restarts_if_the_file_has_changed(server, root, here):
    (root / "a").write_bytes(DATA)
    server.faults["GET"] = [("cut", 1_000_000)]
    get(server, "/a", here, retries=0)
    (root / "a").write_bytes(DATA[::-1])
    [outcome] = get(server, "/a", here)
    assert (outcome.status, outcome.sent) == ("done", len(DATA))
    assert (here / "a").read_bytes() == DATA[::-1]


def test_a_complete_part_is_only_verified(server, root, here):
    (root / "a").write_bytes(DATA)
    server.faults["GET"] = [("cut", 1_000_000)]
    get(server, "/a", here, retries=0)
    (here / "a.part").write_bytes(DATA)
    [outcome] = get(server, "/a", here)
    assert (outcome.status, outcome.sent, outcome.verified) == ("done", 0, True)


def test_a_damaged_part_is_downloaded_again(server, root, here):
    (root / "a").write_bytes(DATA)
    server.faults["GET"] = [("cut", 1_000_000)]
    get(server, "/a", here, retries=0)
    (here / "a.part").write_bytes(b"\0" * 1_000_000)
    assert get(server, "/a", here)[0].status == "done"
    assert (here / "a").read_bytes() == DATA


def test_a_part_is_not_resumed_without_a_strong_etag(root, here):
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
        "noria.transfer.parsers.response_sha256", lambda response: hashlib.sha256(b"x").hexdigest()
    )
    [outcome] = get(server, "/a", here, retries=1)
    assert "SHA-256" in outcome.error
    assert names(here) == []


def test_two_downloads_to_the_same_file_do_not_mix(server, root, here):
    (root / "a").write_bytes(DATA)
    server.faults["GET"] = [("cut", 1_000_000)] * 2
    outcomes = get(server, ["/a", "/a"], here)
    assert sorted(each.status for each in outcomes) == ["done", "failed"]
    assert "another noria get is writing it" in str([each.error for each in outcomes])
    assert (here / "a").read_bytes() == DATA


def test_get_reports_the_text_of_the_server(server, here):
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


def test_get_from_a_port_without_a_server(here):
    with Server(here) as gone:
        pass
    [outcome] = get(gone, "/a", here, retries=0)
    assert outcome.error == f"cannot connect to {gone.url[7:]}: connection refused"


def test_retries_are_reported(here):
    messages = Messages()

    with Server(here) as gone:
        pass
    (here / "b").touch()
    said = f"cannot connect to {gone.url[7:]}: connection refused"
    get(gone, "/a", here, retries=2, new_reporter=lambda _: messages)
    url = f"{gone.url}/d/"
    noria.run(
        uploads.put([here / "b"], url, TransferOptions(retries=1), new_reporter=lambda _: messages)
    )
    assert messages.texts == [
        f"{said}; retrying in 0.0 s (1 of 2)",
        f"{said}; retrying in 0.0 s (2 of 2)",
        f"{said}; retrying in 0.0 s (1 of 1)",
    ]


def never(_):
    raise AssertionError("it must not be tried again")


def test_tls_errors_are_not_retried(root, here):
    messages = Messages()

    def fetch(server):
        url = server.url.replace("http:", "https:") + "/a"
        make = downloads.get([url], here, TransferOptions(), new_reporter=lambda _: messages)
        [outcome] = noria.run(make)
        return outcome.error.removeprefix(f"cannot connect to {server.url[7:]}: ")

    with Server(root) as server:
        assert (
            fetch(server)
            == "the server does not speak TLS on this port; try http:// instead of https://"
        )
    with Server(root) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        said = fetch(server)
    assert said.startswith("its certificate is not trusted (self")
    assert said.endswith("; --ca FILE names certificates to trust")
    assert messages.texts == []


def test_an_unknown_host_is_not_retried(here):
    url = "http://nobody.invalid/a"
    no_name = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    error = httpx.ConnectError("x", request=httpx.Request("GET", url))
    error.__cause__ = no_name

    async def attempt():
        raise error

    said = "cannot connect to nobody.invalid:80: name or service not known"
    with pytest.raises(TransferError, match=said):
        noria.run(retry.with_retries(attempt, 5, report=never))
    error.__cause__ = socket.gaierror(socket.EAI_AGAIN, "Temporary failure")
    assert not connection_errors.is_permanent(error)


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
    named = []
    get(
        server,
        "/",
        Path(),
        recursive=True,
        new_reporter=lambda name: named.append(name) or ProgressReporter(),
    )
    assert named[-1] == f"{server.url}/"


def test_transfers_have_no_task_before_they_start():
    most = 0

    async def do(outcome, bar):
        nonlocal most
        await asyncio.sleep(0)
        most = max(most, len(asyncio.all_tasks()))

    async def main():
        return await run_transfers(
            ((Outcome(str(i), ""), ProgressReporter(), do) for i in range(100)), 3
        )

    assert [each.name for each in noria.run(main())] == [str(i) for i in range(100)]
    assert most <= 4


def test_get_to_a_pipe_resumes_after_a_lost_connection(server, root):
    (root / "a").write_bytes(DATA)
    server.faults["GET"] = [("cut", 1_000_000)]
    file = io.BytesIO()
    [outcome] = noria.run(downloads.get_to_pipe(server.url + "/a", file, TransferOptions()))
    assert (outcome.status, outcome.verified) == ("done", True)
    assert file.getvalue() == DATA


def test_get_to_a_pipe_that_cannot_resume_is_an_error(root):
    (root / "a").write_bytes(DATA)
    with Server(root, etags=False) as server:
        server.faults["GET"] = [("cut", 1_000_000)]
        [outcome] = noria.run(
            downloads.get_to_pipe(server.url + "/a", io.BytesIO(), TransferOptions())
        )
    assert "cannot resume" in outcome.error


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
    assert outcome.error == "it is a directory: -r fetches everything in it"
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


def test_the_check_for_a_directory_is_retried(server, root, here):
    (root / "d").mkdir()
    (root / "d" / "a").touch()
    server.faults["HEAD"] = [503]
    assert get(server, "/d", here, recursive=True)[0].status == "done"
    assert names(here) == ["d", "d/a"]
    server.faults["HEAD"] = [503]
    assert put(server, here / "d" / "a", "/e/")[0].status == "done"


def test_get_does_not_follow_to_a_directory_of_another_host(server, root, here, monkeypatch):
    (root / "d").mkdir()
    monkeypatch.setattr(downloads, "same_origin", lambda *_: False)
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


def test_get_into_a_fifo_without_a_reader(server, root, here):
    (root / "a").write_bytes(DATA)
    os.mkfifo(here / "fifo")
    [outcome] = get(server, "/a", here / "fifo", timeout=0.01)
    assert outcome.error == f"{here / 'fifo'} is a FIFO without a reader"
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
        if not overwrite or os.geteuid():  # a fault would replace /dev/null if run by root
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


def test_get_does_not_write_over_a_disk_without_overwrite(server, root, here):
    (root / "a").touch()
    try:
        os.mknod(here / "disk", stat.S_IFBLK | 0o600, os.makedev(259, 1 << 19))  # no such disk
    except PermissionError:
        pytest.skip("only root may make devices")
    [outcome] = get(server, "/a", here / "disk")
    assert outcome.error == f"{here / 'disk'} is a disk; --overwrite writes over its contents"


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


def test_get_refuses_a_broken_symbolic_link(server, root, here):
    (root / "a").touch()
    (here / "a").symlink_to("none")
    for overwrite in (False, True):
        [outcome] = get(server, "/a", here, overwrite=overwrite)
        assert outcome.error == f"{here / 'a'} is a broken symbolic link"
    assert names(here) == ["a"]
    assert (here / "a").is_symlink()


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
    assert "is not a valid file name" in outcomes[0].error
    assert names(here.parent) == [
        "here",
        "here/good",
        "root",
        "root/good",
        "state",
        *(each for each in names(here.parent) if each.startswith("state/")),
    ]
