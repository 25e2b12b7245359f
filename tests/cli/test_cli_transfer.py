"""``noria get`` and ``noria put`` as commands: streams, statuses, bars, Ctrl-C."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys

import pytest

pytest.importorskip("click")
pytest.importorskip("httpx")

from noria.cli.main import run
from noria.transfer import retry
from support.running import environment, finish
from support.small_fileserver import Server, keep_secret

COMMAND = [sys.executable, "-m", "noria"]
DATA = bytes(range(256)) * 12_000


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.delenv("NORIA_TOKEN", raising=False)
    (tmp_path / "root").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with Server(tmp_path / "root") as server:
        yield server


def start(*arguments, **more):
    return subprocess.Popen(
        [*COMMAND, *arguments],
        env=more.pop("env", environment()),
        stdin=more.pop("stdin", subprocess.DEVNULL),
        stdout=subprocess.PIPE,
        stderr=more.pop("stderr", subprocess.PIPE),
        **more,
    )


def test_put_and_get_print_nothing(server, tmp_path, capsys):
    (tmp_path / "here" / "a").write_bytes(DATA)
    assert run(["put", "a", f"{server.url}/"]) == 0
    assert run(["get", f"{server.url}/a", "-o", "b"]) == 0
    assert (tmp_path / "here" / "b").read_bytes() == DATA
    assert capsys.readouterr() == ("", "")


def test_a_failure_is_reported_and_the_rest_continues(server, tmp_path, capsys):
    (tmp_path / "root" / "a").write_bytes(b"hello")
    assert run(["get", f"{server.url}/none", f"{server.url}/a"]) == 1
    assert (tmp_path / "here" / "a").read_bytes() == b"hello"
    assert capsys.readouterr().err.splitlines() == [
        "noria: none: the server says 404 Not Found: there is no such file",
        "noria: 1 of 2 failed",
    ]


def test_json(server, tmp_path, capsys):
    (tmp_path / "root" / "a").write_bytes(b"hello")
    assert run(["get", f"{server.url}/a", f"{server.url}/none", "--json", "--retries", "0"]) == 1
    summary = json.loads(capsys.readouterr().out)
    assert (summary["done"], summary["failed"], summary["bytes"]) == (1, 1, 5)
    by_url = {each["url"]: each for each in summary["files"]}
    assert by_url[f"{server.url}/a"]["verified"] is True
    assert "404" in by_url[f"{server.url}/none"]["error"]


def test_a_password_in_the_url_is_not_shown(server, tmp_path, capsys):
    url = server.url.replace("http://", "http://user:secret@")
    assert run(["get", f"{url}/none", "--json"]) == 1
    out, err = capsys.readouterr()
    assert "secret" not in out + err


def test_standard_input_and_output(server, tmp_path):
    process = start("put", "-", f"{server.url}/a", stdin=subprocess.PIPE)
    out, err = process.communicate(DATA, timeout=20)
    assert (process.returncode, out, err) == (0, b"", b"")
    assert (tmp_path / "root" / "a").read_bytes() == DATA
    process = start("get", f"{server.url}/a", "-o", "-")
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (0, DATA, b"")


def closed(*fds):
    """For `preexec_fn`: the command starts without these descriptors."""
    return lambda: [os.close(fd) for fd in fds]


@pytest.mark.parametrize("fds", [(0,), (1,), (2,), (0, 1), (0, 1, 2)])
def test_closed_standard_streams(server, tmp_path, fds):
    (tmp_path / "root" / "a").write_bytes(DATA)
    for arguments in (["get", f"{server.url}/a", "-o", "b"], ["put", "b", f"{server.url}/c"]):
        status, out, err = finish(start(*arguments, preexec_fn=closed(*fds)))
        assert (status, out, err) == (0, b"", b"")
    assert (tmp_path / "here" / "b").read_bytes() == DATA
    assert (tmp_path / "root" / "c").read_bytes() == DATA


@pytest.mark.parametrize(
    ("arguments", "fd", "said"),
    [
        (["get", "URL/a", "-o", "-"], 1, b"noria: standard output is closed\n"),
        (["get", "URL/a", "--json"], 1, b"noria: standard output is closed\n"),
        (["put", "-", "URL/c"], 0, b"noria: standard input is closed\n"),
    ],
)
def test_a_closed_stream_that_is_needed(server, tmp_path, arguments, fd, said):
    (tmp_path / "root" / "a").write_bytes(DATA)
    arguments = [each.replace("URL", server.url) for each in arguments]
    status, out, err = finish(start(*arguments, preexec_fn=closed(fd)))
    assert (status, out) == (1, b"")
    assert err.startswith(said)
    assert server.seen == []


@pytest.mark.parametrize("arguments", [["get", "URL/none"], ["get", "x"], ["put", "none", "URL/"]])
def test_an_error_that_cannot_be_reported(server, arguments):
    """click writes to standard output if standard error is closed."""
    arguments = [each.replace("URL", server.url) for each in arguments]
    status, out, _ = finish(start(*arguments, preexec_fn=closed(2)))
    assert status in (1, 2)
    assert b"Traceback" not in out


def ascii_locale():
    return {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0",
            "PYTHONIOENCODING": "ascii", "PYTHONWARNINGS": "error"}  # fmt: skip


@pytest.mark.parametrize("environ", [{}, ascii_locale()], ids=["utf-8", "ascii"])
def test_a_url_is_utf_8_in_every_locale(server, tmp_path, environ):
    (tmp_path / "root" / "\xe9 \u2603").write_bytes(DATA)
    (tmp_path / "root" / "d").mkdir()
    (tmp_path / "root" / "d" / "\xe9").write_bytes(b"inside")

    def noria(*arguments):
        status, out, err = finish(start(*arguments, env=environment(**environ)))
        assert (status, err) == (0, b"")
        return out

    noria("get", f"{server.url}/\xe9 \u2603")
    assert (tmp_path / "here" / "\xe9 \u2603").read_bytes() == DATA
    noria("get", "-r", f"{server.url}/d/", "-o", ".")
    assert (tmp_path / "here" / "d" / "\xe9").read_bytes() == b"inside"
    noria("put", "\xe9 \u2603", f"{server.url}/\xfc")
    assert (tmp_path / "root" / "\xfc").read_bytes() == DATA
    noria("put", "\xe9 \u2603", f"{server.url}/d/")
    assert (tmp_path / "root" / "d" / "\xe9 \u2603").read_bytes() == DATA
    summary = json.loads(noria("get", f"{server.url}/\xfc", "-o", "x", "--json"))
    assert summary["files"][0]["url"] == f"{server.url}/\xfc"


@pytest.mark.parametrize("environ", [{}, ascii_locale()], ids=["utf-8", "ascii"])
def test_an_error_names_what_is_no_ascii(server, environ):
    process = start("get", f"{server.url}/\xfc", b"\xff", env=environment(**environ))
    status, _, err = finish(process)
    assert status == 2
    assert b"Traceback" not in err
    status, _, err = finish(start("get", f"{server.url}/\xfc", env=environment(**environ)))
    assert status == 1
    assert b": the server says 404 Not Found" in err


def test_bytes_of_a_url_that_are_not_utf_8(server, tmp_path):
    name = os.fsdecode(b"\xff")
    (tmp_path / "here" / name).write_bytes(b"a")
    process = start("put", name, os.fsencode(server.url) + b"/\xfe")
    assert finish(process) == (0, b"", b"")
    assert server.seen[-1][1] == "/%FE"


def test_a_login_is_bytes_in_every_locale(server, tmp_path):
    server.login = "Basic w7w6w7w="
    (tmp_path / "root" / "a").touch()
    arguments = ["get", f"{server.url}/a", "--auth", "\xfc:\xfc", "--overwrite"]
    for environ in ({}, ascii_locale()):
        assert finish(start(*arguments, env=environment(**environ))) == (0, b"", b"")


@pytest.mark.parametrize("proxy", ["foo://x", "http://[::1", "http://h:x"])
def test_an_unusable_proxy(server, capsys, monkeypatch, proxy):
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("http_proxy", proxy)
    assert run(["get", f"{server.url}/a"]) == 1
    assert "cannot use the proxy that the environment names" in capsys.readouterr().err


def test_ctrl_c_while_the_command_is_imported(tmp_path):
    """The command is ended by the signal, as before its Python code runs."""
    (tmp_path / "click.py").write_text("print('importing', flush=True)\ninput()\n")
    path = os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])
    process = start("get", "http://h/a", stdin=subprocess.PIPE, env=environment(PYTHONPATH=path))
    assert process.stdout.readline() == b"importing\n"
    process.send_signal(signal.SIGINT)
    assert finish(process) == (-signal.SIGINT, b"", b"")


def test_ctrl_c_while_a_part_of_the_command_is_imported(tmp_path):
    """The command imports httpx itself, after click has started."""
    (tmp_path / "httpx.py").write_text("print('importing', flush=True)\ninput()\n")
    path = os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])
    process = start("get", "http://h/a", stdin=subprocess.PIPE, env=environment(PYTHONPATH=path))
    assert process.stdout.readline() == b"importing\n"
    process.send_signal(signal.SIGINT)
    status, out, err = finish(process)
    assert (status, out, err.strip()) == (130, b"", b"")


def test_an_ignored_ctrl_c_stays_ignored(server, tmp_path):
    """As a shell starts background jobs."""
    (tmp_path / "click.py").write_text(
        "print('importing', flush=True)\ninput()\nraise SystemExit(7)"
    )
    path = os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])
    process = start(
        "get",
        "http://h/a",
        stdin=subprocess.PIPE,
        env=environment(PYTHONPATH=path),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    assert process.stdout.readline() == b"importing\n"
    process.send_signal(signal.SIGINT)
    process.stdin.write(b"\n")
    assert finish(process) == (7, b"", b"")


@pytest.mark.parametrize("source", [os.devnull, __file__])
def test_standard_input_that_cannot_be_waited_for(server, tmp_path, source):
    with open(source, "rb") as file:
        process = start("put", "-", f"{server.url}/a", stdin=file)
        _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, b"")
    with open(source, "rb") as file:
        assert (tmp_path / "root" / "a").read_bytes() == file.read()


def test_the_token_from_the_environment(server, tmp_path, monkeypatch):
    server.login = "Bearer secret"
    (tmp_path / "root" / "a").touch()
    assert run(["get", f"{server.url}/a"]) == 1
    monkeypatch.setenv("NORIA_TOKEN", "secret")
    assert run(["get", f"{server.url}/a"]) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["get"], "Missing argument"),
        (["put"], "Missing arguments 'FILE...' and 'URL'"),
        (["put", "a"], "Missing argument 'URL': where should a go?"),
        (
            ["put", "http://u:x@h/a"],
            "Missing argument 'FILE...': what should be uploaded to http://h/a",
        ),
        (["get", "a"], "is not a URL"),
        (["get", "ftp://h/a"], "is not a URL"),
        (["get", "http://h:x/a"], "is not a URL"),
        (["get", "http://h:99999/a"], "99999 is not a port"),
        (["get", "http://xn--/a"], "is not a URL"),
        (["get", "http://u:x@[::1/a"], "'http://[::1/a' is not a URL"),
        (["put", "http://[::1/x"], "what should be uploaded to http://[::1/x?"),
        (["put", "a", "http://[::1/x"], "is not a URL"),
        (["get", "http://h/a", "--token", "\xfc"], "ASCII"),
        (["put", "a", "http://"], "is not a URL"),
        (["get", "http://h/a", "--auth", "user"], "USER:PASSWORD"),
        (["get", "http://h/a", "--auth", "u:p", "--token", "t"], "cannot be combined"),
        (["get", "http://h/a", "http://h/b", "-o", "-"], "Only one"),
        (["get", "http://h", "-o", "-"], "Only one"),
        (["get", "http://h/a", "-o", "-", "--json"], "both write to"),
        (["get", "http://h/a", "http://h/b", "-o", "none"], "create it first"),
        (["put", "-", "a", "http://h/"], "cannot be combined with files"),
        (["put", "-", "http://h/"], "no name"),
        (["get", "http://h/a", "--jobs", "0"], "--jobs"),
        (["get", "http://h/a", "--ca", "none"], "--ca"),
    ],
)
def test_wrong_use_is_status_2(arguments, said, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NORIA_TOKEN", raising=False)
    assert run(arguments) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("command", ["get", "put"])
def test_the_examples_name_the_port_that_serve_files_listens_on(command, capsys):
    assert run([command, "--help"]) == 0
    assert set(re.findall(r"127\.0\.0\.1:(\d+)", capsys.readouterr().out)) == {"8000"}


def test_a_file_that_cannot_be_read_is_no_wrong_use(server, tmp_path, capsys, monkeypatch):
    keep_secret(monkeypatch)
    monkeypatch.setattr(os, "access", lambda path, *_, **__: os.fspath(path) != "secret")
    for name in ("secret", "a"):
        (tmp_path / "here" / name).touch()
    assert run(["put", "secret", "a", f"{server.url}/"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "noria: secret: permission denied",
        "noria: 1 of 2 failed",
    ]
    assert (tmp_path / "root" / "a").exists()


def test_a_closed_standard_output_ends_it_silently(server, tmp_path):
    (tmp_path / "root" / "a").write_bytes(DATA)
    process = start("get", f"{server.url}/a", "-o", "-")
    assert process.stdout.read(10) == DATA[:10]
    process.stdout.close()
    assert process.wait(timeout=20) == 1
    assert process.stderr.read() == b""
    process.stderr.close()


def test_retries_are_reported_unless_quiet(server, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(retry, "FIRST_PAUSE_SECONDS", 0.001)
    (tmp_path / "root" / "a").write_bytes(b"a")
    server.faults["GET"] = [503]
    assert run(["get", f"{server.url}/a"]) == 0
    assert capsys.readouterr().err == (
        "noria: a: the server says 503 Service Unavailable; retrying in 0.0 s (1 of 5)\n"
    )
    server.faults["GET"] = [503]
    assert run(["get", f"{server.url}/a", "-q", "--overwrite"]) == 0
    assert capsys.readouterr().err == ""


def test_several_files_to_no_directory_is_status_1(server, capsys):
    assert run(["put", "a", "b", f"{server.url}/c"]) == 1
    assert 'end the URL in "/"' in capsys.readouterr().err


def test_a_file_without_certificates(server, tmp_path, capsys):
    (tmp_path / "here" / "none.pem").touch()
    assert run(["get", f"{server.url}/a", "--ca", "none.pem"]) == 1
    assert "cannot load certificates from it" in capsys.readouterr().err


def test_ctrl_c_keeps_the_part_and_prints_how_to_resume(server, tmp_path):
    (tmp_path / "root" / "a").write_bytes(DATA)
    server.faults["GET"] = [("cut", 1_000_000), *[503] * 100]
    process = start("get", f"{server.url}/a", "--retries", "1000")
    while server.methods()["GET"] < 2:
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    status, out, err = finish(process)
    assert (status, out) == (130, b"")
    assert b"interrupted. Run the same command again to resume" in err
    assert b"Traceback" not in err
    assert (tmp_path / "here" / "a.part").stat().st_size == 1_000_000
    server.faults.clear()
    assert run(["get", f"{server.url}/a"]) == 0
    assert server.seen[-1][2]["range"] == "bytes=1000000-"
    assert (tmp_path / "here" / "a").read_bytes() == DATA


def test_ctrl_c_while_standard_input_is_silent(server):
    process = start("put", "-", f"{server.url}/a", stdin=subprocess.PIPE)
    while not server.seen:
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130
    process.communicate()


def got_on_a_terminal(url):
    """Return (status, output, text on the terminal) of `noria get`."""
    ours, theirs = pty.openpty()
    try:
        process = start("get", url, stderr=theirs)
        os.close(theirs)
        shown = b""
        try:
            while block := os.read(ours, 4096):
                shown += block
        except OSError:  # EIO: the other end is closed
            pass
        out, _ = process.communicate(timeout=20)
    finally:
        os.close(ours)
    return process.returncode, out, shown


def test_bars_on_a_terminal(server, tmp_path):
    (tmp_path / "root" / "[bold]a\x1b[31m").write_bytes(DATA)
    status, out, shown = got_on_a_terminal(f"{server.url}/%5Bbold%5Da%1B%5B31m")
    assert (status, out) == (0, b"")
    assert "[bold]a\N{REPLACEMENT CHARACTER}[31m".encode() in shown
    assert b"2.9/2.9 MiB" in shown


def test_another_attempt_is_reported_on_a_terminal(server, tmp_path):
    (tmp_path / "root" / "a").write_bytes(DATA)
    server.faults["GET"] = [503]
    status, _, shown = got_on_a_terminal(f"{server.url}/a")
    assert status == 0
    assert b"(1 of 5)" in shown
    assert b"503 Service Unavailable" in shown
