"""A child process of the experiment, controlled by lines of JSON on its standard input.

It has its own process group, so that Ctrl-C reaches only the parent, which ends the child. If the
parent dies first, the child reads the end of its input and exits.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import noria

Message = dict[str, Any]

PR_SET_PDEATHSIG = 1  # linux/prctl.h

EXIT_SECONDS = 5.0
"""For the end of a process that has closed its output."""


class ChildFailed(Exception):
    """The process died, did not reply in time, or reported an error; the message says which."""

    def __init__(self, reason: str, kind: str = ""):
        super().__init__(reason)
        self.kind = kind


class Child:
    """``python -m MODULE ARGUMENTS``, for the time of a ``with`` block."""

    def __init__(self, module: str, *arguments: str):
        self.name = module.rpartition(".")[2]
        self._unread = b""
        # A file, because it is read only after the child has died, and a full pipe would block it.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=_environment(),
                process_group=0,
            )
        except BaseException:
            self._errors.close()
            raise

    def send(self, message: Message) -> None:
        """Send one line."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise ChildFailed(self._exit_reason()) from None

    def receive(self, timeout: float) -> Message:
        """Return the next line; raise ChildFailed for an error, a timeout, or its death."""
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        until = time.monotonic() + timeout
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        while b"\n" not in self._unread:
            left = until - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                raise ChildFailed(f"the {self.name} did not reply in {timeout:.0f} s")
            piece = os.read(fd, 65536)
            if not piece:
                raise ChildFailed(self._exit_reason())
            self._unread += piece
        line, _, self._unread = self._unread.partition(b"\n")
        try:
            message: Message = json.loads(line)
        except ValueError:
            text = line[:80].decode(errors="replace")
            raise ChildFailed(f"the {self.name} wrote {text!r} instead of a reply") from None
        if "error" in message:
            raise ChildFailed(str(message["error"]), str(message.get("kind", "")))
        return message

    def request(self, timeout: float = 10.0, **message: Any) -> Message:
        """Send one line and return the reply."""
        self.send(message)
        return self.receive(timeout)

    def pause(self) -> None:
        """Stop the process with SIGSTOP, so that it uses no core; see resume()."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused process continue."""
        self.process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """Kill the process and wait for its end. SIGKILL also ends a paused one."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):  # unsent data, and no reader
                pipe.close()
        self._errors.close()

    def _exit_reason(self) -> str:
        """The last line of its standard error, or its exit status."""
        try:
            status = self.process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            return f"the {self.name} closed its output, but did not end"
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"the {self.name} ended with status {status}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()


def _environment() -> dict[str, str]:
    """The environment, with this process's noria first in PYTHONPATH."""
    here = str(Path(noria.__file__).parent.parent)
    path = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (here, path)))}


def die_with_parent() -> None:
    """In the child: have the kernel kill this process when its parent dies, even while paused.

    A paused process cannot read the end of its input. On a C library without prctl(2) the process
    stays until the kernel ends its orphaned process group (setpgid(2)).
    """
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def reply(message: Message) -> None:
    """In the child: write one line to standard output, with one write(2)."""
    os.write(1, json.dumps(message).encode() + b"\n")


def serve_requests(
    commands: Mapping[str, Callable[..., Message]],
    reason: Callable[[Exception], str],
    *errors: type[Exception],
) -> None:
    """In the child: reply to each line of input until its end, after a first line "ready".

    A line has the name of one of `commands` under "command"; its other keys are arguments. If the
    command raises one of `errors`, the reply is an error with this reason, which Child raises.
    """
    reply({"ready": True})
    for line in sys.stdin:
        message = json.loads(line)
        try:
            found = commands[message.pop("command")](**message)
        except errors as error:
            found = {"error": reason(error), "kind": type(error).__name__}
        reply(found)
