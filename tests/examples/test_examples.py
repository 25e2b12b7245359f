"""The examples run, and their README describes them."""

from __future__ import annotations

import difflib
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from noria import models
from support.running import ROOT, environment, line

LIMIT = 10.0
EXAMPLES = ROOT / "examples"
# Not epoll-edge: the handlers accept one connection and read one message per event.
WATCHING = [
    name
    for name in ("nonblocking", "select", "poll", "epoll", "io_uring")
    if models.availability(name)[0]
]


class Example:
    """A running example and the port it prints."""

    def __init__(self, name: str, *arguments: str):
        self.process = subprocess.Popen(
            [sys.executable, str(EXAMPLES / name), "0", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        self.port = int(line(self.process).removeprefix("listening on port "))

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), LIMIT)


@pytest.fixture
def examples() -> Iterator[list[Example]]:
    made: list[Example] = []
    yield made
    for example in made:
        example.process.send_signal(signal.SIGINT)
        try:
            example.process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            example.process.kill()
            example.process.communicate()
            raise


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("echo_selectors.py", ()), *(("echo_reactor.py", (model,)) for model in WATCHING)],
)
def test_the_echo_servers(examples: list[Example], name: str, arguments: tuple[str, ...]) -> None:
    example = Example(name, *arguments)
    examples.append(example)
    for _ in range(2):
        with example.connect() as first, example.connect() as second:
            for turn in range(3):
                first.sendall(b"first %d" % turn)
                second.sendall(b"second %d" % turn)
                assert first.recv(100) == b"first %d" % turn
                assert second.recv(100) == b"second %d" % turn


def test_the_echo_reactor_survives_a_client_that_breaks_off(examples: list[Example]) -> None:
    example = Example("echo_reactor.py", "epoll")
    examples.append(example)
    with example.connect() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.sendall(b"x")
        assert client.recv(1) == b"x"
    with example.connect() as client:
        client.sendall(b"goes on")
        assert client.recv(100) == b"goes on"


def test_events(examples: list[Example]) -> None:
    example = Example("events.py")
    examples.append(example)
    with example.connect() as client:
        client.sendall(b"x" * 1000)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
    assert line(example.process) == "127.0.0.1 has sent 1000 bytes"
    assert line(example.process) == "the upload of 127.0.0.1 takes 500 bytes now"


@pytest.mark.parametrize("model", ["epoll", "threaded"])
def test_chat(examples: list[Example], model: str) -> None:
    example = Example("chat.py", model)
    examples.append(example)
    with example.connect() as first:
        first.sendall(b"anybody?\n")
        with example.connect() as second, first.makefile() as heard:
            name = "{}:{}".format(*second.getsockname())
            assert heard.readline() == f"{name} has joined\n"
            second.sendall("grüezi\n".encode())
            assert heard.readline() == f"{name} says: grüezi\n"
            second.close()
            assert heard.readline() == f"{name} has left\n"


def code(path: Path) -> list[str]:
    """Return the lines after the docstring."""
    text = path.read_text()
    return text[text.index('\n"""\n') + 6 :].splitlines()


def test_the_readme_shows_the_difference() -> None:
    shown = re.search(r"```diff\n(.*?)\n```", (EXAMPLES / "README.md").read_text(), re.DOTALL)
    assert shown is not None
    names = ("echo_selectors.py", "echo_reactor.py")
    lines = difflib.unified_diff(
        *(code(EXAMPLES / name) for name in names), *names, lineterm="", n=100
    )
    assert shown[1].splitlines() == [text.rstrip() for text in lines if not text.startswith("@@")]
    changed = [text for text in shown[1].splitlines() if re.match(r"[-+](?![-+])", text)]
    assert sum(text.startswith("+") and len(text) > 1 for text in changed) <= 8, "a few lines"


def test_the_readme_names_every_example() -> None:
    text = (EXAMPLES / "README.md").read_text()
    for path in EXAMPLES.glob("*.py"):
        assert f"`{path.name}`" in text
