"""Logins, records of interrupted transfers, and retries."""

from __future__ import annotations

import json
import os
import ssl
from pathlib import Path

import httpx
import pytest

import noria
from noria.transfer import (
    connection_errors,
    parsers,
    resume_state,
    retry,
)
from noria.transfer import put as uploads
from noria.transfer.options import TransferOptions
from noria.transfer.resume_state import ResumeRecord, records_directory
from noria.transfer.session import describe_error
from support.small_fileserver import Server
from support.transfers import DATA, Messages, get, put


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
        assert outcome.error.endswith(
            "who are you? (the login was refused; check the user and password or the token)"
        )
        assert "--token" not in outcome.error
        assert put(server, here / "a", "/a", **options)[0].status == "done"
        assert get(server, "/a", here / "b", **options)[0].status == "done"


def test_an_error_of_tls_has_the_reason_of_openssl():
    incoming = ssl.MemoryBIO()
    incoming.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    client = ssl.create_default_context().wrap_bio(incoming, ssl.MemoryBIO(), server_hostname="a")
    with pytest.raises(ssl.SSLError) as raised:
        client.do_handshake()
    # httpx and anyio pass such an error on as it is, if the connection was open before.
    assert describe_error(raised.value).startswith("the server does not speak TLS on this port")


def test_records_are_private_and_damage_is_ignored():
    record = ResumeRecord("put", "a", "b")
    assert record.read() == {}
    record.write(upload="x")
    assert record.read() == {"upload": "x"}
    assert record.path.stat().st_mode & 0o777 == 0o600
    for damage in (b"{", b"[1]", b"\xff"):
        record.path.write_bytes(damage)
        assert record.read() == {}
    record.path.write_text(json.dumps({"upload": "y"}))
    record.delete()
    record.delete()
    assert record.read() == {}


def test_a_record_that_cannot_be_written_is_a_warning(server, root, here, monkeypatch):
    (here / "no").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(here / "no"))
    monkeypatch.setattr(resume_state, "_warned_directories", set())
    for name in ("a", "b"):
        (here / name).write_bytes(DATA)
    messages = Messages()

    url = f"{server.url}/"
    options = TransferOptions()
    for _ in range(2):
        outcomes = noria.run(
            uploads.put([here / "a", here / "b"], url, options, new_reporter=lambda _: messages)
        )
        assert {each.status for each in outcomes} <= {"done", "unchanged"}
    [text] = messages.texts
    assert "not a directory; if the transfer is interrupted, it cannot be resumed" in text
    resume_state._warned_directories.clear()
    assert get(server, "/a", here / "c", new_reporter=lambda _: messages)[0].status == "done"
    assert len(messages.texts) == 2


def test_a_relative_state_home_is_ignored(monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "here")
    monkeypatch.setenv("HOME", "/home/x")
    assert records_directory() == Path("/home/x/.local/state/noria/transfers")


def test_nothing_is_created_for_a_user_without_a_home_directory(monkeypatch):
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as if passwd(5) had no entry
    with pytest.raises(OSError, match="Not a directory"):
        records_directory().mkdir(parents=True)
    record = ResumeRecord("key")
    assert "cannot write to" in record.write(a=1)
    assert record.read() == {}


def test_a_reason_is_part_of_a_sentence():
    error = httpx.RemoteProtocolError("Server disconnected without sending a response.")
    assert (
        connection_errors.describe_http_error(error)
        == "Server disconnected without sending a response"
    )


def test_pauses_grow_to_a_limit(monkeypatch):
    monkeypatch.setattr(retry, "FIRST_PAUSE_SECONDS", 0.5)
    assert 0.25 <= retry.pause_seconds(1) <= 0.5
    assert 2 <= retry.pause_seconds(4) <= 4
    assert 15 <= retry.pause_seconds(100) <= 30


@pytest.mark.parametrize(("value", "seconds"), [("3", 3), ("9999", 300), ("", 0), ("x", 0)])
def test_retry_after(value, seconds):
    assert parsers.retry_after(value) == seconds
