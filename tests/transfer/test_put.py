"""noria put: single requests, tus, directories, and files that exist."""

from __future__ import annotations

import hashlib
import inspect
import io
import os
import sys
from pathlib import Path

import pytest

import noria
from noria.transfer import put as uploads
from noria.transfer import (
    sources,
    tus,
)
from noria.transfer.errors import TransferError
from noria.transfer.options import TransferOptions
from noria.transfer.resume_state import records_directory
from support.small_fileserver import Server, keep_secret
from support.transfers import DATA, names, put


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
    monkeypatch.setattr(tus, "CHUNK_BYTES", 1 << 20)
    (here / "a").write_bytes(DATA)
    [outcome] = put(server, here / "a", "/b")
    assert (outcome.status, outcome.size, outcome.verified) == ("done", len(DATA), True)
    assert outcome.sha256 == hashlib.sha256(DATA).hexdigest()
    assert (root / "b").read_bytes() == DATA
    assert server.methods() == {"OPTIONS": 1, "HEAD": 1, "POST": 1, "PATCH": 3}
    assert os.listdir(records_directory()) == []


def test_put_resumes_after_lost_connections_and_errors(server, root, here, monkeypatch):
    monkeypatch.setattr(tus, "CHUNK_BYTES", 1 << 20)
    (here / "a").write_bytes(DATA)
    server.faults["PATCH"] = [("cut", 1000), 503, ("cut", 0)]
    [outcome] = put(server, here / "a", "/a")
    assert outcome.status == "done"
    assert (root / "a").read_bytes() == DATA
    assert server.methods() == {"OPTIONS": 1, "POST": 1, "PATCH": 6, "HEAD": 7}


def test_put_resumes_in_another_run(server, root, here, monkeypatch):
    monkeypatch.setattr(tus, "CHUNK_BYTES", 1 << 20)
    (here / "a").write_bytes(DATA)
    server.faults["PATCH"] = [None, 503]
    assert put(server, here / "a", "/a", retries=0)[0].status == "failed"
    assert not (root / "a").exists()
    [outcome] = put(server, here / "a", "/a", retries=0)
    assert (outcome.status, outcome.sent) == ("done", len(DATA) - (1 << 20))
    assert outcome.sha256 == hashlib.sha256(DATA).hexdigest()
    assert (root / "a").read_bytes() == DATA
    assert server.methods()["POST"] == 1


def test_put_restarts_if_the_file_has_changed(server, root, here, monkeypatch):
    monkeypatch.setattr(tus, "CHUNK_BYTES", 1 << 20)
    (here / "a").write_bytes(DATA)
    server.faults["PATCH"] = [None, 503]
    put(server, here / "a", "/a", retries=0)
    (here / "a").write_bytes(DATA[::-1])
    assert put(server, here / "a", "/a")[0].status == "done"
    assert (root / "a").read_bytes() == DATA[::-1]
    assert list(server.uploads) == ["2"]  # the first upload was terminated


def test_put_restarts_if_the_server_discarded_the_upload(server, root, here, monkeypatch):
    monkeypatch.setattr(tus, "CHUNK_BYTES", 1 << 20)
    (here / "a").write_bytes(DATA)
    server.faults["PATCH"] = [None, 503]
    put(server, here / "a", "/a", retries=0)
    server.uploads.clear()
    assert put(server, here / "a", "/a")[0].status == "done"
    assert (root / "a").read_bytes() == DATA


def test_put_fails_if_the_file_appears_during_the_upload(server, root, here, monkeypatch):
    monkeypatch.setattr(tus, "CHUNK_BYTES", 1 << 20)
    (here / "a b").write_bytes(DATA)
    server.faults["PATCH"] = [None, 412]
    [outcome] = put(server, here / "a b", "/a%20b")
    assert (outcome.status, outcome.error) == ("failed", "/a b exists; --overwrite replaces it")
    assert os.listdir(records_directory()) == []  # no record is left


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
def test_put_of_the_same_file_is_unchanged(server, root, here, data):
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


def test_put_reports_the_text_of_the_server(server, here):
    (here / "a").write_bytes(b"hello")
    [outcome] = put(server, here / "a", "/none/a")
    assert outcome.error == "the server says 409 Conflict: there is no such directory"


def test_put_creates_the_directory_and_its_parents(server, root, here):
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


def test_put_to_a_directory_that_cannot_be_created_is_one_error(server, root, here):
    for name in ("a", "b"):
        (here / name).touch()
    server.faults["MKCOL"] = [403]
    [outcome] = put(server, [here / "a", here / "b"], "/x/")
    assert (outcome.status, outcome.name) == ("failed", f"{server.url}/x/")
    assert outcome.error == "the server says 403 Forbidden: this is not allowed"
    assert server.methods() == {"HEAD": 1, "MKCOL": 1}


def test_nothing_below_a_directory_that_cannot_be_created_is_sent(server, root, here):
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
def test_put_reports_that_the_url_is_a_directory(server, root, here, data, overwrite):
    (here / "a").write_bytes(data)
    (root / "d e").mkdir()
    said = '/d e is a directory: end the URL in "/" to put files into it'
    [outcome] = put(server, here / "a", "/d%20e", overwrite=overwrite)
    assert outcome.error == said
    options = TransferOptions(overwrite=overwrite)
    url = f"{server.url}/d%20e"
    [outcome] = noria.run(uploads.put_from_pipe(io.BytesIO(data), url, options))
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
        found = list(sources.find_sources([here], "http://h/"))
    finally:
        for path in reversed(made):  # pytest's own removal is recursive
            path.rmdir()
    assert [each.path for each in found] == made
    assert not any(each.error for each in found)


def test_all_parents_are_created_without_recursion(server, root, here):
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
    with pytest.raises(TransferError, match=r'several files .* end the URL in "/": http://h/x/'):
        list(sources.find_sources([Path("a"), Path("b")], "http://h/x"))


def test_a_directory_needs_one_to_go_into(here):
    with pytest.raises(
        TransferError, match=r'here is a directory.* end the URL in "/": http://h/x/'
    ):
        list(sources.find_sources([here], "http://h/x"))


def test_put_from_a_pipe(server, root):
    url = server.url + "/a"
    [outcome] = noria.run(uploads.put_from_pipe(io.BytesIO(DATA), url, TransferOptions()))
    assert (outcome.status, outcome.size) == ("done", len(DATA))
    assert (root / "a").read_bytes() == DATA
    [outcome] = noria.run(uploads.put_from_pipe(io.BytesIO(b"x"), url, TransferOptions()))
    assert "exists" in outcome.error


def test_put_from_a_pipe_is_not_retried(server, root):
    server.faults["PUT"] = [503, 503]
    [outcome] = noria.run(
        uploads.put_from_pipe(io.BytesIO(b"x"), server.url + "/a", TransferOptions())
    )
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
