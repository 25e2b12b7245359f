"""A process that does a part of the experiment, told what to do by lines of JSON.

It is in a process group of its own, so that Ctrl-C reaches only the one who holds it; that one ends
it, and if that one dies without having done so, the child sees the end of its input and leaves.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import noria

Message = dict[str, Any]


class ChildFailed(Exception):
    """The process died, did not answer in time, or told of an error; the message says which."""

    def __init__(self, reason: str, kind: str = ""):
        super().__init__(reason)
        self.kind = kind


class Child:
    """``python -m MODULE ARGUMENTS`` between ``with`` and its end."""

    def __init__(self, module: str, *arguments: str):
        self.name = module.rpartition(".")[2]
        self._unread = b""
        # A file, not a pipe: nobody reads it until the child has died. Open as long as the child.
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

    def tell(self, message: Message) -> None:
        """Sends one line."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise ChildFailed(self._last_words()) from None

    def hear(self, timeout: float) -> Message:
        """The next line; raises ChildFailed for an error, silence of `timeout` s, or its death."""
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        until = time.monotonic() + timeout
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        while b"\n" not in self._unread:
            left = until - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                raise ChildFailed(f"the {self.name} said nothing for {timeout:.0f} s")
            piece = os.read(fd, 65536)
            if not piece:
                raise ChildFailed(self._last_words())
            self._unread += piece
        line, _, self._unread = self._unread.partition(b"\n")
        message: Message = json.loads(line)
        if "error" in message:
            raise ChildFailed(str(message["error"]), str(message.get("kind", "")))
        return message

    def ask(self, timeout: float = 10.0, **message: Any) -> Message:
        """Sends one line and gives the answer."""
        self.tell(message)
        return self.hear(timeout)

    def end(self) -> None:
        """Ends the process, whatever it is at, and waits until it is gone."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):  # what was not sent has no reader now
                pipe.close()
        self._errors.close()

    def _last_words(self) -> str:
        """Why it died, as far as it told."""
        status = self.process.wait(5)
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
    """The child finds the same noria as this process, wherever that was found."""
    here = str(Path(noria.__file__).parent.parent)
    path = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (here, path)))}


def answer(message: Message) -> None:
    """What a child says: one line, in one piece, on its standard output."""
    os.write(1, json.dumps(message).encode() + b"\n")
