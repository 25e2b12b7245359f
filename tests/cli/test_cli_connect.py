"""``noria connect``: at a prompt (a real pseudo-terminal), and in a pipe."""

import contextlib
import errno
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest

pytest.importorskip("click")

from noria.cli.connect.pipe import CHUNK_BYTES
from noria.cli.connect.terminal_text import TerminalDecoder, escape
from noria.cli.main import run

COMMAND = [sys.executable, "-m", "noria", "connect"]
PROMPT = b">>>>>:"  # the terminal gets its last space as a cursor movement


@pytest.fixture
def environment(tmp_path):
    path = os.pathsep.join(os.path.abspath(part) for part in sys.path if part)
    return {
        **os.environ,
        "PYTHONPATH": path,
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "TERM": "xterm",
    }


@contextlib.contextmanager
def serving(answer, family=socket.AF_INET, address=("127.0.0.1", 0)):
    """Serve one connection in a thread: call *answer* with the socket."""
    failures = []

    def work():
        try:
            sock, _ = listener.accept()
            with sock:
                answer(sock)
        except OSError as error:
            failures.append(error)

    with socket.socket(family) as listener:
        listener.bind(address)
        listener.listen()
        listener.settimeout(20)
        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield listener.getsockname()
        finally:
            thread.join(20)
    assert not thread.is_alive()
    assert not [error for error in failures if error.errno not in (errno.EPIPE, errno.ECONNRESET)]


def echo(sock):
    while data := sock.recv(65536):
        sock.sendall(data)


def reset(sock):
    sock.recv(100)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def hang_up(sock):
    sock.recv(100)


class TestShown:
    def test_a_character_split_over_reads_is_put_together(self):
        decoder = TerminalDecoder()
        data = "wörld €😀".encode()
        assert "".join(decoder.decode(data[i : i + 1]) for i in range(len(data))) == "wörld €😀"
        assert decoder.flush() == ""

    def test_bytes_that_are_not_utf8_are_shown_as_such(self):
        decoder = TerminalDecoder()
        assert decoder.decode(b"a\xffb\xe2\x82") == "a\\xffb"
        assert decoder.flush() == "\\xe2\\x82"

    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("\x1b[31m", "\\x1b[31m"),
            ("\x07\x00\x7f", "\\x07\\x00\\x7f"),
            ("\x9b2J", "\\x9b2J"),
            ("a\r\n\tb", "a\\r\n\tb"),
            ("\u202eabc\u2028", "\\u202eabc\\u2028"),
            ("äöü 漢字 😀", "äöü 漢字 😀"),
        ],
    )
    def test_what_a_terminal_would_obey_is_escaped(self, text, shown):
        assert escape(text) == shown


class TestPipe:
    def talk(self, address, data, environment, *options):
        done = subprocess.run(
            [*COMMAND, *map(str, address), *options],
            input=data,
            capture_output=True,
            env=environment,
        )
        return done.returncode, done.stdout, done.stderr

    def test_lines(self, environment):
        with serving(echo) as address:
            assert self.talk(address, b"a\nb\n", environment) == (0, b"a\nb\n", b"")

    def test_a_unix_socket(self, environment, tmp_path):
        path = str(tmp_path / "s")
        with serving(echo, socket.AF_UNIX, path):
            result = self.talk(("--unix", path), b"\x00\xff\r\n", environment)
        assert result == (0, b"\x00\xff\r\n", b"")

    def test_ten_megabytes_both_ways(self, environment):
        data = os.urandom(10_000_000)
        with serving(echo) as address:
            status, out, _ = self.talk(address, data, environment)
        assert status == 0
        assert out == data

    def test_input_from_a_file(self, environment, tmp_path):
        file = tmp_path / "input"
        file.write_bytes(b"from a file")
        with serving(echo) as address, file.open("rb") as stdin:
            done = subprocess.run(
                [*COMMAND, *map(str, address)], stdin=stdin, capture_output=True, env=environment
            )
        assert (done.returncode, done.stdout) == (0, b"from a file")

    def test_a_server_that_never_closes_is_waited_for_and_left(self, environment):
        left = threading.Event()

        def answer(sock):
            echo(sock)
            left.wait(20)

        with serving(answer) as address:
            result = self.talk(address, b"x", environment, "--wait", "0.3")
            left.set()
        assert result == (0, b"x", b"")

    def test_a_reset_is_reported(self, environment):
        with serving(reset) as address:
            status, _, err = self.talk(address, b"x", environment)
        assert (status, err) == (1, b"noria: connection reset by server\n")

    def test_a_server_that_leaves_while_the_input_is_open_ends_it(self, environment):
        with serving(hang_up) as address:
            process = subprocess.Popen(
                [*COMMAND, *map(str, address)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
            )
            with process:
                process.stdin.write(b"x")
                process.stdin.flush()
                assert process.wait(20) == 0
                assert process.stderr.read() == b"noria: server closed the connection\n"

    def test_a_server_that_closes_before_it_has_taken_all_is_a_failure(self, environment, tmp_path):
        """It half-closes and reads no more, so that nothing resets the connection."""
        room = int(Path("/proc/sys/net/core/wmem_default").read_text())
        if room >= CHUNK_BYTES:
            pytest.skip("a Unix socket has room for a whole chunk here: no send would sleep")
        left = threading.Event()

        def answer(sock):
            sock.recv(1)  # the first send has begun, and blocks
            sock.shutdown(socket.SHUT_WR)
            left.wait(20)

        path, file = str(tmp_path / "s"), tmp_path / "input"
        file.write_bytes(bytes(4 * CHUNK_BYTES))
        with serving(answer, socket.AF_UNIX, path), file.open("rb") as stdin:
            done = subprocess.run(
                [*COMMAND, "--unix", path], stdin=stdin, capture_output=True, env=environment
            )
            left.set()
        assert done.returncode == 1
        message = b"noria: server closed the connection before it received everything\n"
        assert done.stderr == message

    def test_a_closed_output_ends_it_silently(self, environment):
        reading, writing = os.pipe()
        os.close(reading)
        with serving(echo) as address:
            done = subprocess.run(
                [*COMMAND, *map(str, address)],
                input=b"x",
                stdout=writing,
                stderr=subprocess.PIPE,
                env=environment,
            )
        os.close(writing)
        assert (done.returncode, done.stderr) == (1, b"")

    def test_ctrl_c(self, environment):
        ready = threading.Event()

        def answer(sock):
            sock.recv(10)
            ready.set()
            sock.recv(10)

        with serving(answer) as address:
            process = subprocess.Popen(
                [*COMMAND, *map(str, address)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
            )
            with process:
                process.stdin.write(b"x")
                process.stdin.flush()
                assert ready.wait(20)
                process.send_signal(signal.SIGINT)
                assert process.wait(20) == 130
                assert b"Traceback" not in process.stderr.read()


class TestCannotConnect:
    def test_no_server_listens(self, capsys):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        assert run(["connect", "127.0.0.1", str(port)]) == 1
        assert f"cannot connect to 127.0.0.1:{port}: connection refused" in capsys.readouterr().err

    def test_no_answer_in_time(self, capsys):
        """A full accept queue drops the next SYN, so the connect gets no response."""
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            for _ in range(4):
                client = stack.enter_context(socket.socket())
                client.setblocking(False)
                client.connect_ex(listener.getsockname())
            port = str(listener.getsockname()[1])
            assert run(["connect", "127.0.0.1", port, "--timeout", "0.2"]) == 1
        assert "no answer within 0.2 s" in capsys.readouterr().err

    def test_no_such_socket(self, tmp_path, capsys):
        assert run(["connect", "--unix", str(tmp_path / "no")]) == 1
        assert "no such socket" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ([], "give HOST and PORT"),
            (["127.0.0.1:9001"], "Did you mean: noria connect 127.0.0.1 9001"),
            (["::1"], "PORT is missing"),
            (["h", "0"], "not in the range"),
            (["h", "1", "--unix", "p"], "not both"),
            (["h", "1", "--timeout", "nan"], "is not a number of seconds"),
            (["h", "1", "--wait", "-1"], "not in the range"),
        ],
    )
    def test_wrong_use(self, arguments, said, capsys):
        assert run(["connect", *arguments]) == 2
        assert said in capsys.readouterr().err


class Terminal:
    """``noria connect`` on a pseudo-terminal, as a user sees it."""

    def __init__(self, address, environment, *options):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(sys.executable, [*COMMAND, *map(str, address), *options], environment)
        self.seen = b""
        self.place = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.fd)
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)

    def type(self, data):
        os.write(self.fd, data)

    def until(self, words):
        """Read until *words* come after what was read before; escape sequences are removed."""
        while (found := plain(self.seen).find(words, self.place)) < 0:
            if not select.select([self.fd], [], [], 10)[0]:
                raise AssertionError(f"no {words!r} in {plain(self.seen)!r}")
            try:
                self.seen += os.read(self.fd, 65536)
            except OSError:  # the terminal's other end is closed
                raise AssertionError(f"no {words!r} in {plain(self.seen)!r}") from None
        self.place = found + len(words)

    def status(self):
        """Read to the end; return the exit status."""
        with contextlib.suppress(OSError):
            while data := os.read(self.fd, 65536):
                self.seen += data
        pid, self.pid = self.pid, 0
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def plain(data):
    """What is written, without escape sequences and returns of the carriage."""
    return re.sub(rb"\x1b(\[[0-9;?]*[A-Za-z]|[=>])|\r", b"", data)


class TestPrompt:
    def test_a_line_is_sent_and_the_reply_shown(self, environment, tmp_path):
        with serving(echo) as address, Terminal(address, environment) as terminal:
            terminal.until(PROMPT)
            terminal.type("hello wörld\r".encode())
            terminal.until(":hello wörld\n".encode())
            terminal.until(PROMPT)
            terminal.type(b"\x04")
            assert terminal.status() == 0
        history = tmp_path / "state" / "noria" / "history"
        assert history.stat().st_mode & 0o777 == 0o600
        assert "+hello wörld" in history.read_text()

    def test_history_comes_back_with_the_up_key(self, environment, tmp_path):
        for typed in (b"again and again\r", b"\x1b[A\r"):
            with serving(echo) as address, Terminal(address, environment) as terminal:
                terminal.until(PROMPT)
                terminal.type(typed)
                terminal.until(b":again and again\n")
                terminal.until(PROMPT)
                terminal.type(b"\x04")
                assert terminal.status() == 0

    def test_what_is_sent_is_the_line_with_or_without_its_newline(self, environment):
        for options, sent in (((), b"abc\n"), (("--no-newline",), b"abc")):
            got = []

            def answer(sock, got=got):
                got.append(sock.recv(100))
                sock.sendall(b"got it")

            with (
                serving(answer) as address,
                Terminal(address, environment, *options) as terminal,
            ):
                terminal.until(PROMPT)
                terminal.type(b"abc\r")
                terminal.until(b"got it")  # although it does not end in a newline
                terminal.until(b"server closed the connection")
                assert terminal.status() == 0
            assert got == [sent]

    def test_a_long_reply_is_complete(self, environment):
        def answer(sock):
            sock.recv(100)
            sock.sendall(b"".join(b"line %d\n" % n for n in range(20_000)) + b"the end\n")
            sock.recv(100)

        with serving(answer) as address, Terminal(address, environment) as terminal:
            terminal.until(PROMPT)
            terminal.type(b"go\r")
            terminal.until(b"the end")
            shown = re.findall(rb"^(?:>>>>>:)?line (\d+)", plain(terminal.seen), re.MULTILINE)
            terminal.type(b"\x04")
            assert terminal.status() == 0
        assert [int(n) for n in shown] == list(range(20_000))

    def test_the_server_cannot_drive_the_terminal(self, environment):
        def answer(sock):
            sock.recv(100)
            sock.sendall(b"\x1b]0;title\x07 \x1b[2J \xff \xc3")
            sock.recv(100)  # the next line: the character comes in two pieces
            sock.sendall(b"\xa4\n")
            sock.recv(100)

        with serving(answer) as address, Terminal(address, environment) as terminal:
            terminal.until(PROMPT)
            terminal.type(b"a\r")
            terminal.until(b"\\x1b]0;title\\x07 \\x1b[2J \\xff")
            terminal.type(b"b\r")
            terminal.until("ä".encode())
            assert b"\x1b]0;title" not in terminal.seen
            terminal.type(b"\x04")
            assert terminal.status() == 0

    @pytest.mark.parametrize(
        ("leave", "said", "status"),
        [
            (lambda sock: None, b"noria: server closed the connection", 0),
            (
                lambda sock: sock.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                ),
                b"noria: connection reset by server",
                1,
            ),
        ],
    )
    def test_a_close_by_the_server_is_reported_at_the_prompt(
        self, environment, leave, said, status
    ):
        typing = threading.Event()

        def answer(sock):
            assert typing.wait(20)
            leave(sock)

        with serving(answer) as address, Terminal(address, environment) as terminal:
            terminal.until(PROMPT)
            terminal.type(b"half a li")
            terminal.until(b"half a li")
            typing.set()
            terminal.until(said)
            assert terminal.status() == status

    def test_ctrl_c_ends(self, environment):
        with serving(echo) as address, Terminal(address, environment) as terminal:
            terminal.until(PROMPT)
            terminal.type(b"half\x03")
            assert terminal.status() == 130
            assert b"Traceback" not in terminal.seen

    def test_ctrl_d_still_shows_replies_in_flight(self, environment):
        def answer(sock):
            while sock.recv(100):
                pass
            sock.sendall(b"last words")

        with serving(answer) as address, Terminal(address, environment) as terminal:
            terminal.until(PROMPT)
            terminal.type(b"a\r")
            terminal.until(PROMPT)
            terminal.type(b"\x04")
            terminal.until(b"last words")
            assert terminal.status() == 0
