"""The client of the live protocol, which requests the figures of another process's loops."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noria.errors import NoriaError, error_message
from noria.sight.flight_recorder import dump_process, not_watched
from noria.sight.socket_directory import peer, socket_path

if TYPE_CHECKING:
    from noria.sight.live_observer import LiveObserver

TIMEOUT = 5.0  # seconds until a process that does not answer counts as silent
DUMP_TIMEOUT = 60.0  # seconds in which a process that answers writes a flight recording
CONNECT_RETRY = 0.02  # seconds
MAX_ANSWER = 512 * 1024 * 1024  # bytes of a line


class ClientError(NoriaError):
    """The process cannot be observed, or has refused a request."""


def _connect(sock: socket.socket, path: str, timeout: float) -> None:
    """Connect; retry while the listening socket's backlog is full. Raises OSError."""
    end = time.monotonic() + timeout
    while True:
        try:
            sock.connect(path)
        except BlockingIOError:
            if time.monotonic() > end:
                raise TimeoutError(f"{path}: the process does not answer") from None
            time.sleep(CONNECT_RETRY)
        else:
            return


class Client:
    """A connection to the agent of a process. Calls but `dump` block for at most TIMEOUT seconds.

    Every call raises ClientError if the agent answers with an error, TimeoutError if it does not
    answer, and OSError if the connection is lost.
    """

    def __init__(self, sock: socket.socket, path: str) -> None:
        self.path = path
        self._socket = sock
        self._received = bytearray()
        self._fds: list[int] = []
        self._pending_answers = 0  # more than one after a request has timed out
        self.pid = peer(sock)[0]

    @classmethod
    def connect(cls, target: int | str | Path, *, timeout: float = TIMEOUT) -> Client:
        """Connect to a process id, or to the socket at a path.

        Raises ClientError if no watched process is there, or if it belongs to another user.
        """
        by_pid = isinstance(target, int) or (isinstance(target, str) and target.isdecimal())
        pid = int(str(target)) if by_pid else None
        path = str(target if pid is None else socket_path(pid))
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(timeout)
            _connect(sock, path, timeout)
            if peer(sock)[1] not in (os.getuid(), 0) and os.getuid() != 0:
                raise ClientError(f"{path}: the process belongs to another user")
        except OSError as error:
            sock.close()
            if pid is None:
                raise ClientError(f"{path}: {error_message(error)}") from error
            if not os.path.exists(f"/proc/{pid}"):
                raise ClientError(f"there is no process {pid}") from error
            raise ClientError(not_watched(pid)) from error
        except BaseException:
            sock.close()
            raise
        return cls(sock, path)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()
        for fd in self._fds:
            os.close(fd)
        self._fds = []

    def request(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send a request and return the answer."""
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        self._pending_answers += 1
        while True:
            line = self._line()
            self._pending_answers -= 1
            if not self._pending_answers:
                break
        answer = json.loads(line)
        if not isinstance(answer, dict):
            raise ClientError(f"{self.path}: the answer is not an object")
        if "error" in answer:
            raise ClientError(str(answer["error"]))
        return answer

    def _line(self) -> bytes:
        begin = 0
        while (end := self._received.find(b"\n", begin)) < 0:
            begin = len(self._received)
            if begin > MAX_ANSWER:
                raise ClientError(f"{self.path}: the answer is too large")
            data, fds, _, _ = socket.recv_fds(self._socket, 256 * 1024, 4, socket.MSG_CMSG_CLOEXEC)
            self._fds += fds
            if not data:
                raise ConnectionResetError(f"{self.path}: the process has ended the connection")
            self._received += data
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return line

    def hello(self) -> dict[str, Any]:
        """Return the description of the process, and its loops."""
        return self.request({"get": "hello"})

    def ring(self, loop: int) -> int:
        """Return a descriptor of a loop's ring; the caller closes it."""
        for fd in self._fds:  # of an answer that came too late
            os.close(fd)
        self._fds = []
        self.request({"get": "ring", "loop": loop})
        if not self._fds:
            raise ClientError(f"{self.path}: no descriptor came with the answer")
        return self._fds.pop()

    def names(self, loop: int, after: int = 0) -> list[Any]:
        """Return the names of a loop's recorder from number *after* on."""
        return list(self.request({"get": "names", "loop": loop, "after": after})["names"])

    def snapshot(self) -> dict[str, Any]:
        """Return a snapshot of the process's tasks, connections and executors."""
        return self.request({"get": "snapshot"})

    def blocks_after(self, number: int = 0) -> list[dict[str, Any]]:
        """Return the blocks that are new or have changed since change *number*."""
        return list(self.request({"get": "blocks", "after": number})["blocks"])

    def buses(self) -> list[dict[str, Any]]:
        """Return the figures of the process's buses (noria.bus.figures)."""
        return list(self.request({"get": "buses"})["buses"])

    def dump(self, path: str | Path) -> int:
        """Have the process write its flight recording; return the number of records.

        If it does not answer, this process reads the other one's memory and writes the recording.
        """
        timeout = self._socket.gettimeout()
        try:
            # First: a process that is silent now must not write the file again later.
            self.hello()
            self._socket.settimeout(DUMP_TIMEOUT)
            answer = self.request({"do": "dump", "path": os.path.abspath(path)})
        except TimeoutError:
            return dump_process(self.pid, path)
        finally:
            self._socket.settimeout(timeout)
        return int(answer["records"])

    def observer(self) -> LiveObserver:
        """Return an observer of the process, which begins with the records in its rings."""
        from noria.sight.live_observer import LiveObserver

        return LiveObserver(self)
