"""``noria connect`` in a pipe: standard input to the server, its replies to standard output.

Two threads, one for each direction, block in their own system calls. Neither can delay the other,
so any amount of data passes without a deadlock, with one buffer for each direction in memory.
"""

import contextlib
import math
import os
import select
import socket
import sys
import threading
import time

from noria.cli.connect.end_reason import (
    SERVER_CLOSED,
    SERVER_CLOSED_EARLY,
    USER_ENDED,
    EndReason,
    connection_lost,
)
from noria.cli.connect.terminal_text import TerminalDecoder

CHUNK_BYTES = 256 * 1024
MAX_POLL_MS = 1e9


def run_pipe(sock: socket.socket, wait: float) -> EndReason:
    """Run until the server closes, or for *wait* seconds without data after the input's end."""
    sender = _Sender(sock)
    sender.start()
    try:
        return _receive(sock, sender, wait, _open_output())
    finally:
        with contextlib.suppress(OSError):  # wakes the sender if it blocks in send
            sock.shutdown(socket.SHUT_RDWR)


class _Sender(threading.Thread):
    """Sends standard input. The descriptor ``done_fd`` becomes readable at its end."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(name="send", daemon=True)  # it may block in read(2) forever
        self._sock = sock
        self.done_fd, self._done_writer = os.pipe()
        self.send_lock = threading.Lock()
        self.finished = False  # all of the input was sent
        self.error: OSError | None = None
        self.input_error: OSError | None = None

    def run(self) -> None:
        """Read and send until the input ends or the connection fails."""
        buffer = bytearray(CHUNK_BYTES)
        view = memoryview(buffer)
        while size := self._read(buffer):
            with self.send_lock:
                try:
                    self._sock.sendall(view[:size])
                except OSError as error:
                    self.error = error
                    break
        else:
            # Before shutdown, as the server may answer to that at once.
            self.finished = True
            with contextlib.suppress(OSError):  # if the server closed, the receiver reports it
                self._sock.shutdown(socket.SHUT_WR)
        os.close(self._done_writer)

    def _read(self, buffer: bytearray) -> int:
        while True:
            try:
                return os.readv(0, [buffer])
            except BlockingIOError:  # another process made the open file non-blocking
                select.select([0], [], [])
            except OSError as error:
                self.input_error = error
                return 0


def _receive(sock: socket.socket, sender: _Sender, wait: float, output: "_Output") -> EndReason:
    """Copy what the server sends until it closes or *wait* seconds have passed without data."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    poll.register(sender.done_fd, select.POLLIN)
    deadline = math.inf  # of the monotonic clock; set at the end of the input
    input_ended = False
    while True:
        left = deadline - time.monotonic()
        if left < 0:
            break
        timeout = None if math.isinf(left) else min(left * 1000 + 1, MAX_POLL_MS)
        ready = {fd for fd, _ in poll.poll(timeout)}
        if sender.done_fd in ready:
            poll.unregister(sender.done_fd)
            input_ended = True
            deadline = time.monotonic() + wait
        if sock.fileno() in ready:
            try:
                data = sock.recv(CHUNK_BYTES)
            except OSError as error:
                return connection_lost(error)
            if not data:
                break
            output.write(data)
            if input_ended:
                deadline = time.monotonic() + wait
    output.flush()
    return _end_reason(sock, sender)


def _end_reason(sock: socket.socket, sender: _Sender) -> EndReason:
    """Return why it ended: the server closed, or was silent for long enough."""
    if sender.error is not None:
        return connection_lost(sender.error)
    if sender.input_error is not None:
        raise sender.input_error
    if sender.finished:
        return USER_ENDED
    # After shutdown a blocked send fails, so the lock is free and `error` says if data was left.
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
    with sender.send_lock:
        return SERVER_CLOSED if sender.error is None else SERVER_CLOSED_EARLY


class _Output:
    """Standard output, byte for byte."""

    def write(self, data: bytes) -> None:
        """Write all of *data*. Raises BrokenPipeError if the reader is gone."""
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(1, view) :]
            except BlockingIOError:
                select.select([], [1], [])

    def flush(self) -> None:
        """Do nothing: bytes are written at once."""


class _TerminalOutput(_Output):
    """Standard output on a terminal: text without control characters."""

    def __init__(self) -> None:
        self._decoder = TerminalDecoder()

    def write(self, data: bytes) -> None:
        """Write the text that *data* completes."""
        self._write_text(self._decoder.decode(data))

    def flush(self) -> None:
        """Write the bytes of an incomplete character."""
        self._write_text(self._decoder.flush())

    def _write_text(self, text: str) -> None:
        super().write(text.encode(sys.stdout.encoding, "backslashreplace"))


def _open_output() -> _Output:
    return _TerminalOutput() if os.isatty(1) else _Output()
