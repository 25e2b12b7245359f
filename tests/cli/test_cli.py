"""The command as a whole: help, version, exit statuses, and how errors are shown."""

import os
import socket
import subprocess
import sys

import pytest

pytest.importorskip("click")

from noria._version import __version__
from noria.cli import errors
from noria.cli.main import noria, run
from noria.errors import ModelUnavailable, NoriaError

COMMAND = [sys.executable, "-m", "noria"]


def test_version(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"noria {__version__}\n"


def test_help_names_every_command_and_an_example_of_each(capsys):
    assert run(["--help"]) == 0
    text = capsys.readouterr().out
    for name in ("serve", "connect", "models", "compare"):
        assert f"\n  {name} " in text
        assert f"\n    noria {name}" in text


@pytest.mark.parametrize("name", list(noria.commands))
def test_every_command_has_help_with_an_example(name, capsys):
    assert run([name, "--help"]) == 0
    assert f"    noria {name}" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["nonsense"], ["--nonsense"], ["serve"], ["connect"]])
def test_wrong_use_is_status_2(arguments, capsys):
    assert run(arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (NoriaError("no such\n thing"), "no such thing"),
        (PermissionError(13, "Permission denied", "/x"), "/x: permission denied"),
        (ModelUnavailable(1, "io_uring is refused here"), "io_uring is refused here"),
        (OSError("no number"), "no number"),
    ],
)
def test_an_error_is_one_line_and_status_1(error, said, monkeypatch, capsys):
    def fail(*_args, **_more):
        raise error

    monkeypatch.setattr("noria.models.availability", fail)
    assert run(["models", "--json"]) == 1
    assert capsys.readouterr().err.splitlines()[0] == f"noria: {said}"


def test_ctrl_c_is_status_130(monkeypatch):
    def interrupt(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr("noria.models.availability", interrupt)
    assert run(["models", "--json"]) == 130


def test_a_closed_standard_output_is_not_reported():
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run([*COMMAND, "models"], stdout=writing, stderr=subprocess.PIPE)
    finally:
        os.close(writing)
    assert done.stderr == b""
    assert done.returncode == 1


def test_without_the_extra_it_names_what_to_install(tmp_path):
    """A click that cannot be imported stands for one that is not installed."""
    (tmp_path / "click.py").write_text("raise ModuleNotFoundError('no click', name='click')\n")
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    done = subprocess.run(
        [*COMMAND, "--version"], env={**os.environ, "PYTHONPATH": path}, capture_output=True
    )
    assert done.returncode == 1
    assert done.stdout == b""
    assert done.stderr == b"the noria commands need: pip install 'noria[cli]'\n"


@pytest.mark.parametrize(
    ("number", "port", "words"),
    [(98, 9001, "port 9001 on h is in use"), (13, 80, "no permission to listen on port 80")],
)
def test_listening_errors_name_the_port_and_what_to_do(number, port, words):
    error = errors.listen_error(OSError(number, ""), "h", port, None)
    assert error.message == words
    assert "--port" in error.hint


def test_an_ipv6_address_is_written_in_brackets():
    assert errors.format_address("::1", 80, None) == "[::1]:80"


def test_an_unknown_host_is_named(monkeypatch, capsys):
    def fail(*_args):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert run(["connect", "no.such.host", "80"]) == 1
    assert capsys.readouterr().err.startswith(
        "noria: cannot connect to no.such.host:80: name or service not known\n"
    )
