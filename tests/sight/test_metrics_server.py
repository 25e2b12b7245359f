"""The server of metrics, `noria serve --metrics`, and the ASGI application."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest

pytest.importorskip("click")
pytest.importorskip("prometheus_client")

import noria
from noria.cli.main import run
from noria.cli.serve.files import serve_files
from noria.cli.serve.metrics import NO_ADDRESS
from noria.sight import lifetime
from noria.sight.asgi import metrics_app
from noria.sight.metrics import serve_metrics
from noria.sight.settings import Settings
from support.running import environment
from support.serving import Echo, NoriaServing, connect, read_exactly, until


@pytest.fixture
def server():
    """A server of this process's metrics."""
    agent = lifetime.acquire(Settings(socket=False, report_blocks=False))
    server = serve_metrics(agent)
    yield server
    server.close()
    lifetime.release()


@pytest.fixture
def serving():
    serving = NoriaServing("epoll")
    yield serving
    serving.stop()


def get(address, path="/metrics", method="GET", accept="*/*"):
    """Return (status, content type, body)."""
    host, port = address.rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    try:
        connection.request(method, path, headers={"Accept": accept})
        response = connection.getresponse()
        return response.status, response.headers["Content-Type"], response.read().decode()
    finally:
        connection.close()


def value(text, name, **labels):
    """Return the sum of the samples of a name with these labels."""
    found = re.findall(rf"^{name}(?:{{(.*)}})? (.+)$", text, re.MULTILINE)
    wanted = [f'{label}="{of}"' for label, of in labels.items()]
    return sum(float(number) for shown, number in found if all(each in shown for each in wanted))


def test_it_serves_one_page_in_the_format_that_the_client_accepts(server):
    status, kind, text = get(server.address)
    assert (status, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert value(text, "noria_worker_answering", worker=os.getpid()) == 1
    status, kind, text = get(server.address, "/metrics?x=1", accept="application/openmetrics-text")
    assert kind.startswith("application/openmetrics-text; version=1.0.0")
    assert text.endswith("# EOF\n")
    assert get(server.address, method="HEAD")[::2] == (200, "")
    assert 'href="/metrics"' in get(server.address, "/")[2]
    assert get(server.address, "/other")[0] == 404
    assert get(server.address, method="POST")[0] == 501


def test_close_ends_idle_connections():
    agent = lifetime.acquire(Settings(socket=False, report_blocks=False))
    server = serve_metrics(agent)
    host, port = server.address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), 10) as idle:
        idle.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert idle.recv(1) == b"H"
        server.close()
        while idle.recv(4096):
            pass
    lifetime.release()


def test_its_own_connections_are_not_those_of_the_loop(server, serving):
    serving.start(Echo, host="127.0.0.1")
    host, port = server.address.rsplit(":", 1)
    # A client that is another process; in this one its socket would be counted.
    client = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1]).read().decode())"
    command = [sys.executable, "-c", client, f"http://{host}:{port}/metrics"]
    until(lambda: "noria_connections{" in get(server.address)[2])
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    assert value(done.stdout, "noria_connections") == 0


def test_bytes_and_connections_of_a_loop_that_sleeps(server, serving):
    """Its last records do not have them: it has handled the last bytes and waits for more."""
    address = serving.start(Echo, host="127.0.0.1")
    with connect(address) as client:
        for _ in range(50):
            client.sendall(b"x" * 100)
            assert len(read_exactly(client, 100)) == 100
        text = until(
            lambda: (
                (text := get(server.address)[2])
                and value(text, "noria_received_bytes_total", model="epoll") == 5000
                and text
            )
        )
        assert value(text, "noria_sent_bytes_total", model="epoll") == 5000
        assert value(text, "noria_connections_opened_total", model="epoll") == 1
        assert value(text, "noria_events_total", model="epoll", kind="io") >= 51


def test_a_scrape_is_answered_while_the_loop_is_blocked(server):
    blocked, go_on = threading.Event(), threading.Event()

    async def main():
        await asyncio.sleep(0)
        blocked.set()
        go_on.wait(30)

    thread = threading.Thread(target=lambda: noria.run(main()))
    thread.start()
    try:
        assert blocked.wait(10)
        until(lambda: value(get(server.address)[2], "noria_loop_blocked") == 1)
    finally:
        go_on.set()
        thread.join()
    text = until(
        lambda: (text := get(server.address)[2]) and not value(text, "noria_loop_blocked") and text
    )
    assert value(text, "noria_loop_blocks_total") == 1
    assert 0 < value(text, "noria_loop_blocked_seconds_total") < 60


def test_one_scrape_shows_all_workers_and_those_that_replace_them():
    command = [sys.executable, "-m", "noria", "serve", "echo", "--port", "0", "--model", "epoll"]
    with subprocess.Popen(
        [*command, "--json", "--workers", "2", "--metrics", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment(),
    ) as process:
        try:
            first = json.loads(process.stdout.readline())
            url = re.fullmatch(r"http://(127\.0\.0\.1:\d+)/metrics", first["metrics"])

            def workers():
                text = get(url[1])[2]
                answering = re.findall(r'noria_worker_answering{worker="(\d+)"} 1', text)
                return set(map(int, answering)) - {first["pid"]}

            pids = until(lambda: len(found := workers()) == 2 and found)
            killed = min(pids)
            os.kill(killed, signal.SIGKILL)
            after = until(lambda: len(new := workers()) == 2 and killed not in new and new)
            assert after - pids
        finally:
            process.terminate()
            process.stdout.read()
            assert process.wait(20) == 0


def test_a_port_in_use_is_an_error(capfd):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert run(["serve", "echo", "--port", "0", "--metrics", str(port)]) == 1
    error = capfd.readouterr().err
    assert f"cannot serve metrics on 127.0.0.1:{port}: address already in use" in error
    assert "--metrics" in error.splitlines()[1]


def test_without_prometheus_client_the_command_says_what_to_install(capfd, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("noria.sight.metrics")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    assert run(["serve", "echo", "--port", "0", "--metrics", "0"]) == 1
    assert "pip install 'noria[metrics]'" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "metrics", "directory"),
    [
        ([], None, "."),
        (["--metrics"], NO_ADDRESS, "."),
        (["--metrics", "/"], NO_ADDRESS, "/"),
        (["/", "--metrics", "--upload"], NO_ADDRESS, "/"),
        (["--metrics", "9100", "/"], ("127.0.0.1", 9100), "/"),
        (["--metrics", "[::1]:9100"], ("::1", 9100), "."),
        (["/", "--metrics=example.org:1"], ("example.org", 1), "/"),
    ],
)
def test_the_file_server_takes_an_address_or_none(arguments, metrics, directory):
    context = serve_files.make_context("files", arguments)
    assert (context.params["metrics"], context.params["directory"]) == (metrics, directory)


@pytest.mark.parametrize("address", ["x", "1:2:3", "70000", ":1", "a b:1"])
def test_what_is_no_address_is_wrong_use(address, capfd):
    assert run(["serve", "echo", f"--metrics={address}"]) == 2
    assert "HOST:]PORT" in capfd.readouterr().err


async def request(app, method="GET", kind="http", accept=b"*/*"):
    """Return what the application sends."""
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "websocket.connect"}

    scope = {"type": kind, "method": method, "path": "/", "headers": [(b"Accept", accept)]}
    await app(scope, receive, send)
    return sent


def test_the_asgi_application():
    from prometheus_client import CollectorRegistry, Counter

    registry = CollectorRegistry()
    Counter("mine", "Mine.", registry=registry).inc()

    async def main():
        # A snapshot may be some time old.
        while not value((await request(app))[1]["body"].decode(), "noria_tasks"):
            await asyncio.sleep(0.02)
        start, body = await request(app)
        headers = dict(start["headers"])
        assert start["status"] == 200
        assert headers[b"content-type"].startswith(b"text/plain; version=0.0.4")
        assert int(headers[b"content-length"]) == len(body["body"])
        text = body["body"].decode()
        assert value(text, "noria_tasks") == 1
        assert value(text, "mine_total") == 1
        _, body = await request(app, accept=b"application/openmetrics-text; version=1.0.0")
        assert body["body"].endswith(b"# EOF\n")
        start, body = await request(app, "HEAD")
        assert (start["status"], body["body"]) == (200, b"")
        assert (await request(app, "POST"))[0]["status"] == 405
        assert (await request(app, kind="websocket"))[0]["type"] == "websocket.close"

    app = metrics_app(registry)
    try:
        noria.run(main())
    finally:
        app.close()
