"""``noria serve files``: a real process, requests over real sockets, and errors of its options."""

from __future__ import annotations

import base64
import http.client
import json
import os
import pathlib
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
import types

import pytest

from support import loops, running

pytest.importorskip("click")
pytest.importorskip("httptools")

from noria.cli.main import run
from noria.cli.param_types import Size
from noria.cli.serve.certificates import load_tls_context
from noria.fileserver import auth

COMMAND = [sys.executable, "-m", "noria", "serve", "files"]


class Server:
    """A ``noria serve files`` in a process of its own."""

    def __init__(self, *arguments, wait=True, **options):
        path = os.pathsep.join(os.path.abspath(part) for part in sys.path if part)
        environment = {**os.environ, "PYTHONPATH": path, **options.pop("env", {})}
        self.process = subprocess.Popen(
            [*options.pop("before", []), *COMMAND, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            **options,
        )
        self.first = self.process.stdout.readline()
        found = re.search(r"(https?)://127\.0\.0\.1:(\d+)/", self.first)
        if not found:
            raise AssertionError(self.first + self.process.communicate()[1])
        self.scheme, self.port = found[1], int(found[2])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()

    def connection(self):
        if self.scheme == "https":
            return http.client.HTTPSConnection(
                "localhost", self.port, timeout=20, context=loops.client_context()
            )
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)

    def ask(self, method, path, body=None, **headers):
        """(status, headers, body)."""
        connection = self.connection()
        try:
            fields = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, fields)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def end(self, number=signal.SIGINT):
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=20)
        return self.process.returncode, out, err


@pytest.fixture
def directory(tmp_path):
    served = tmp_path / "served"
    served.mkdir()
    (served / "a.txt").write_text("hello\n")
    (served / "big").write_bytes(bytes(range(256)) * 8192)
    return served


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_prints_where_it_serves_and_exits_with_0(directory, number):
    with Server(directory, "--port", "0", "--model", "epoll") as server:
        assert server.first.startswith(f"serving {directory} at http://127.0.0.1:")
        assert server.first.endswith(", model epoll\n")
        status, headers, body = server.ask("GET", "/a.txt")
        assert (status, body) == (200, b"hello\n")
        assert headers["ETag"]
        assert server.ask("GET", "/big")[2] == (directory / "big").read_bytes()
        assert server.ask("GET", "/nothing")[0] == 404
        status, _, body = server.ask("PUT", "/new", b"x")
        assert status == 403
        assert b"--upload" in body
        assert server.ask("POST", "/-/uploads/", b"")[0] == 403
        assert server.ask("GET", "/-/metrics")[0] == 404
        assert server.end(number)[0::2] == (0, "")


def test_uploads_the_log_and_the_metrics(directory):
    arguments = ["--upload", "--log", "json", "--metrics", "--max-size", "1M"]
    with Server(directory, "--port", "0", *arguments) as server:
        assert server.ask("PUT", "/new%20file", b"x" * 1000)[0] == 201
        assert (directory / "new file").read_bytes() == b"x" * 1000
        assert server.ask("PUT", "/new%20file", b"y")[0] == 409
        assert server.ask("PUT", "/large", b"y" * 1_100_000)[0] == 413
        listed = server.ask("GET", "/?a=%26", Accept="application/json")
        names = {entry["name"] for entry in json.loads(listed[2])["entries"]}
        assert names == {"a.txt", "big", "new file"}
        metrics = server.ask("GET", "/-/metrics")[2].decode()
        assert re.search(
            r'noria_http_answers_total\{worker="\d+",method="PUT",status="201"\} 1\n', metrics
        )
        assert re.search(r"noria_connections\{[^}]*\} 1\n", metrics)
        assert re.search(r'noria_http_answer_seconds_bucket\{[^}]*le="\+Inf"\} 4\n', metrics)
        status, out, err = server.end(signal.SIGTERM)
    assert (status, err) == (0, "")
    lines = [json.loads(line) for line in out.splitlines()]
    assert [(line["method"], line["target"], line["status"]) for line in lines] == [
        ("PUT", "/new%20file", 201),
        ("PUT", "/new%20file", 409),
        ("PUT", "/large", 413),
        ("GET", "/?a=%26", 200),
        ("GET", "/-/metrics", 200),
    ]
    assert lines[0]["client"] == "127.0.0.1"


def test_the_common_log_and_logins(directory):
    made = str(auth.PasswordHash.create("secret: pass"))
    arguments = ["--auth", f"me:{made}", "--log", "common"]
    with Server(directory, "--port", "0", *arguments, env={"NORIA_TOKEN": "tok123"}) as server:

        def basic(user, password):
            pair = base64.b64encode(f"{user}:{password}".encode()).decode()
            return server.ask("GET", "/a.txt", Authorization=f"Basic {pair}")[0]

        status, headers, _ = server.ask("GET", "/a.txt")
        assert status == 401
        assert headers.get_all("WWW-Authenticate") == [
            'Basic realm="noria", charset="UTF-8"',
            'Bearer realm="noria"',
        ]
        assert basic("me", "secret: pass") == 200
        assert basic("me", "secret: pass") == 200
        assert basic("me", "wrong") == 401
        assert basic("you", "secret: pass") == 401
        assert server.ask("GET", "/a.txt", Authorization="Basic ???")[0] == 401
        assert server.ask("GET", "/a.txt", Authorization="Bearer tok123")[0] == 200
        assert server.ask("GET", "/a.txt", Authorization="Bearer tok12")[0] == 401
        assert server.ask("GET", "/-/assets/page.css")[0] == 401
        out = server.end()[1]
    lines = out.splitlines()
    assert re.fullmatch(r'127\.0\.0\.1 - - \[.+\] "GET /a.txt HTTP/1\.1" 401 \d+', lines[0])
    assert re.fullmatch(r'127\.0\.0\.1 - me \[.+\] "GET /a.txt HTTP/1\.1" 200 6', lines[1])
    assert re.fullmatch(
        r'127\.0\.0\.1 - - \[.+\] "GET /a.txt HTTP/1\.1" 200 6', lines[6]
    )  # a token


def test_tls_and_workers(directory):
    pem = loops.CERTIFICATE
    with Server(directory, "--port", "0", "--tls", pem, pem, "--workers", "2") as server:
        assert server.scheme == "https"
        for _ in range(4):
            assert server.ask("GET", "/big")[2] == (directory / "big").read_bytes()
        with (
            pytest.raises((ssl.SSLError, OSError)),
            socket.create_connection(("127.0.0.1", server.port)) as plain,
        ):
            plain.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            if not plain.recv(100).startswith(b"HTTP/"):
                raise OSError("no HTTP without TLS")
        assert server.end(signal.SIGTERM)[0::2] == (0, "")


def test_the_quota_is_one_for_all_workers(tmp_path):
    quota = ("--upload", "--quota", "1000000", "--workers", "2")
    with Server(tmp_path, "--port", "0", *quota) as server:
        answers = [server.ask("PUT", f"/{number}", bytes(300_000))[0] for number in range(12)]
    assert answers == [201] * 3 + [507] * 9
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == 900_000


def test_sigterm_lets_an_upload_finish(directory):
    with Server(directory, "--port", "0", "--upload") as server:
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(b"PUT /late HTTP/1.1\r\nHost: localhost\r\nContent-Length: 6\r\n\r\nabc")
            until(lambda: any(name.startswith(".noria-") for name in os.listdir(directory)))
            server.process.send_signal(signal.SIGTERM)
            until(lambda: refused(server.port))
            client.sendall(b"def")
            answer = b"".join(iter(lambda: client.recv(4096), b""))
        assert answer.startswith(b"HTTP/1.1 201 ")
        assert b"Connection: close" in answer
        assert server.process.wait(20) == 0
        assert (directory / "late").read_bytes() == b"abcdef"


def until(true):
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def refused(port):
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:  # the kernel had accepted it before the socket was closed
        return False
    return False


def test_a_second_signal_does_not_wait(directory):
    with Server(directory, "--port", "0", "--upload") as server:
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(b"PUT /late HTTP/1.1\r\nHost: localhost\r\nContent-Length: 6\r\n\r\nabc")
            until(lambda: any(name.startswith(".noria-") for name in os.listdir(directory)))
            server.process.send_signal(signal.SIGTERM)
            until(lambda: refused(server.port))
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(20) == 0
        assert sorted(os.listdir(directory)) == ["a.txt", "big"]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sockets_from_systemd(directory, workers):
    # LISTEN_PID must be the pid of the serving process: a shell sets it and calls exec.
    before = ["/bin/sh", "-c", 'export LISTEN_PID=$$ LISTEN_FDS=1; exec "$@" 3<&0', "sh"]
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with Server(
            directory, "--port", "1", "--workers", workers, before=before, stdin=listening
        ) as server:
            assert server.port == port
            assert server.ask("GET", "/a.txt")[2] == b"hello\n"
            assert server.end()[0::2] == (0, "")


def test_events_report_changes(directory):
    with Server(directory, "--port", "0", "--upload") as server:
        connection = server.connection()
        connection.request("GET", "/-/events?path=/")
        events = connection.getresponse()
        assert events.headers["Content-Type"] == "text/event-stream"
        assert events.readline() == b"retry: 2000\n"
        assert server.ask("PUT", "/new", b"x")[0] == 201
        assert change(events) == {"path": "/"}
        (directory / "by others").touch()
        assert change(events) == {"path": "/"}
        assert server.ask("GET", "/-/events?path=/none/")[0] == 404
        assert server.ask("GET", "/-/events?path=/../")[0] == 400
        assert server.ask("GET", "/-/events?path=a")[0] == 400
        assert server.ask("DELETE", "/-/events")[0] == 405
        assert server.end(signal.SIGTERM)[0] == 0  # does not wait for clients of event streams
        assert b"data" not in events.read()
        connection.close()


def change(events):
    while not (line := events.readline()).startswith(b"data: "):
        assert line
    return json.loads(line.removeprefix(b"data: "))


def test_a_port_in_use_is_named(directory, capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert run(["serve", "files", str(directory), "--port", str(port)]) == 1
    assert f"noria: port {port} on 127.0.0.1 is in use\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["/no/such/directory"], "does not exist"),
        ([__file__], "is a file"),
        (["--auth", "me"], "write USER:HASH"),
        (["--auth", "me:password"], "--hash-password"),
        (["--auth", "me:scrypt:3:8:1:AAAA:AAAA"], "not a password hash"),
        (["--token", "a b"], "without spaces"),
        (["--overwrite"], "--overwrite requires --upload"),
        (["--upload", "--read-only"], "cannot be combined"),
        (["--max-size", "many"], "is not a size"),
        (["--max-size", "0"], "less than one byte"),
        (["--tls", "/no/cert", "/no/key"], "does not exist"),
        (["--model", "epol"], "Did you mean"),
        (["--log", "loud"], "common"),
        (["--auth", "me:"], "me: the hash is empty"),
        (["--max-size", "5"], "--max-size requires --upload"),
        (["--quota", "5"], "--quota requires --upload"),
        (["--allow-host", ""], "a name is empty"),
        (["--model", "blocking"], "blocking cannot run asyncio"),
        (["--model", "epoll,threaded"], "use one of select, poll, epoll, epoll-edge, io_uring."),
        (["--grace", "x"], "'x' is not a number of seconds."),
        (["--grace", "-1"], "-1"),
        (["--max-connections", "0"], "0"),
        (["--events", "amqp://127.0.0.1"], "no broker has the scheme 'amqp'"),
        (["--events", "memory:"], "use a broker, as nats://127.0.0.1:4222"),
        (["--events-source", "a"], "--events-source requires --events"),
    ],
)
def test_wrong_use(arguments, said, capsys):
    assert run(["serve", "files", "--port", "0", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_errors_are_one_line(directory, capsys, tmp_path, monkeypatch):
    assert run(["serve", "files", str(directory), "--host", "nosuchhost.invalid"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("noria: cannot listen on nosuchhost.invalid:8000: ")
    assert said.endswith("check the host name\n")
    assert run(["serve", "--port", "0", "files"]) == 2
    assert "noria serve files" in capsys.readouterr().err
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "x")
    assert run(["serve", "files", str(directory)]) == 1
    assert "LISTEN_FDS" in capsys.readouterr().err


def test_errors_of_a_certificate_or_a_key_name_the_file(tmp_path, capsys):
    both = pathlib.Path(loops.CERTIFICATE).read_text()
    at = both.index("-----BEGIN CERTIFICATE-----")
    key, cert, junk, bad = (tmp_path / name for name in ("key.pem", "cert.pem", "junk", "bad.pem"))
    key.write_text(both[:at])
    cert.write_text(both[at:])
    junk.write_bytes(b"\x30\x82 no PEM")
    bad.write_text(both[at:].replace("MII", "???", 1))
    a_key, a_cert = (
        f"{key} has a private key instead of the certificate",
        f"{cert} has a certificate instead of the private key",
    )
    for first, second, said in (
        (key, cert, f"{a_key}, and {a_cert}"),
        (cert, cert, a_cert),
        (key, key, a_key),
        (junk, key, f"{junk} is not a PEM file"),
        (cert, junk, f"{junk} is not a PEM file"),
        (junk, junk, f"{junk} is not a PEM file"),
        (bad, key, f"cannot use {bad} and {key}: "),
    ):
        assert run(["serve", "files", str(tmp_path), "--tls", str(first), str(second)]) == 1
        lines = capsys.readouterr().err.splitlines()
        assert lines[0].startswith(f"noria: {said}")
        assert lines[0] == f"noria: {said}" or first == bad
        assert lines[1].strip().startswith("--tls takes two PEM files")
    load_tls_context(str(cert), str(key))


def test_a_file_with_a_reserved_name_is_warned_of(directory):
    (directory / "-").mkdir()
    with Server(directory, "--port", "0") as server:
        err = server.end()[2]
    assert '"-" in the served directory cannot be reached' in err


@pytest.mark.parametrize(
    ("given", "password"),
    [
        (b"secret\n", "secret"),
        (b" p\xc3\xa4ss \r\nmore\n", " päss "),
        (b"p\xe4ss", "p\udce4ss"),
        (b"", None),
        (b"\n", None),
    ],
)
def test_a_password_from_a_pipe(given, password):
    made = subprocess.run(
        [*COMMAND, "--hash-password"], input=given, capture_output=True, env=running.environment()
    )
    if password is None:
        assert (made.returncode, made.stdout) == (1, b"")
        assert made.stderr.startswith(b"noria: no password on standard input\n")
    else:
        assert (made.returncode, made.stderr) == (0, b"")
        assert auth.PasswordHash.parse(made.stdout.decode().strip()).verify(password)


def test_a_password_is_hashed(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda *_: "päss")
    monkeypatch.setattr("click.termui.hidden_prompt_func", lambda *_: "päss")
    assert run(["serve", "files", "--hash-password"]) == 0
    made = auth.PasswordHash.parse(capsys.readouterr().out.strip())
    assert made.verify("päss")
    assert not made.verify("pass")
    assert str(auth.PasswordHash.create("päss")) != str(made)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("1k", 1024),
        ("1KB", 1000),
        ("1.5MiB", 1572864),
        ("2G", 2 << 30),
        ("3tb", 3 * 10**12),
        ("7b", 7),
    ],
)
def test_sizes(text, size):
    assert Size().convert(text, None, None) == size
