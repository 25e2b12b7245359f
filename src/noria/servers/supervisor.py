"""Several processes that serve one port: a parent forks the workers and restarts dead ones."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Generic, NamedTuple, Protocol, Self, TypeVar

from noria import models
from noria.errors import NoriaError
from noria.net.listening import describe, tcp_sockets, unix_socket
from noria.servers.config import OnReady, ServeConfig, ServerInfo, Summary
from noria.servers.server import run_server, sighup_stops_server

log = logging.getLogger("noria")

# A worker that ran for less time than this, in seconds, failed at its start. After that many such
# failures in a row the supervisor gives up.
MIN_LIFETIME = 1.0
MAX_FAILED_STARTS = 10
MAX_RESTART_DELAY = 2.0  # seconds; the delay doubles with each failed start
PR_SET_PDEATHSIG = 1  # prctl(2)
LISTENING = b"+"  # what a worker writes to its pipe when it accepts connections


class Totals(Protocol):
    """What a worker reports at its end, and the sum over all workers."""

    def encode(self) -> bytes: ...
    def add(self, other: Self) -> None: ...
    @classmethod
    def decode(cls, encoded: bytes) -> Self: ...


AnyTotals = TypeVar("AnyTotals", bound=Totals)


class WorkerProcess(NamedTuple):
    """A child process: when it was started, and two of the parent's descriptors.

    `pipe` reports that the worker accepts connections. `totals` is a file in memory: a pipe would
    hold no more than 64 KiB, and is not read before the worker has ended.
    """

    started: float
    pipe: int
    totals: int


def run_workers(config: ServeConfig, workers: int, ready: OnReady | None) -> Summary:
    """Serve with several processes until a signal; return the sum of their totals."""
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("several workers need the main thread, which handles signals")
    chosen, reason = models.choose() if config.model == "auto" else (config.model, "")
    models.make(chosen, interval=config.interval).close()  # raises here, not once in each worker
    config = replace(config, model=chosen)
    sockets = _bind(config)

    def serve(on_ready: OnReady) -> Summary:
        return run_server(_for_worker(config, sockets), on_ready)

    try:
        return supervise(serve, workers, sockets, chosen, reason, ready)
    finally:
        if config.unix is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(config.unix)


def supervise(
    serve: Callable[[OnReady], Summary],
    workers: int,
    sockets: list[socket.socket],
    model: str,
    reason: str,
    ready: OnReady | None,
) -> Summary:
    """Run `serve` in several workers until a signal; return the sum of their totals.

    `ready` is called with the addresses of `sockets`, which hold the port and are closed at the
    end. `serve` is as for Supervisor.
    """
    addresses = [describe(sock.family, sock.getsockname()) for sock in sockets]
    supervisor = Supervisor(serve, Summary())
    try:
        for _ in range(workers):
            supervisor.start_worker()
        supervisor.wait_until_listening()
        if ready is not None:
            ready(ServerInfo(addresses, model, reason, os.getpid(), supervisor.stop))
        summary = supervisor.run()
    finally:
        supervisor.close()
        for sock in sockets:
            sock.close()
    summary.workers = workers
    return summary


def _bind(config: ServeConfig) -> list[socket.socket]:
    """Bind in the parent, which holds the port while it runs. It never listens on TCP."""
    if config.unix is not None:
        sock = unix_socket(config.unix)
        sock.listen(config.backlog)
        return [sock]
    return tcp_sockets(config.host, config.port, reuse_port=True)


def _for_worker(config: ServeConfig, sockets: list[socket.socket]) -> ServeConfig:
    """The configuration of a worker: the parent's Unix socket, or the port that it has bound."""
    if config.unix is not None:
        return replace(config, unix=None, sock=sockets[0].dup())
    name: Any = sockets[0].getsockname()
    return replace(config, port=name[1], reuse_port=True)


class Supervisor(Generic[AnyTotals]):
    """Starts workers, restarts dead ones, and forwards signals to them.

    `serve(ready)` runs in each worker: it serves, calls `ready` when it accepts connections, and
    returns its totals, which are added to `total`.
    """

    def __init__(self, serve: Callable[[OnReady], AnyTotals], total: AnyTotals):
        self.serve = serve
        self.workers: dict[int, WorkerProcess] = {}  # by pid
        self.stopping = False
        self.failed_starts = 0
        self.restarts = 0
        self.total = total
        # Python runs a handler between two of its instructions: a signal right before waitpid(2)
        # would not interrupt it. So each signal, SIGCHLD too, writes to this pipe, and `run` reads.
        self._wakeup_reader, self._wakeup_writer = os.pipe()
        os.set_blocking(self._wakeup_reader, False)
        os.set_blocking(self._wakeup_writer, False)
        self._old_wakeup_fd = signal.set_wakeup_fd(self._wakeup_writer, warn_on_full_buffer=False)
        handled = [signal.SIGINT, signal.SIGTERM]
        # Without a handler SIGHUP would end the parent alone, and with it the hold on the port.
        if sighup_stops_server():
            handled.append(signal.SIGHUP)
        self.old_handlers = {number: signal.signal(number, self._on_signal) for number in handled}
        self.old_handlers[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)

    def start_worker(self) -> None:
        """Fork a worker, unless the supervisor is stopping."""
        _flush()
        # A signal between the fork and the next line would miss a child that is not in `workers`
        # yet, and run the parent's handler in the child.
        old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, self.old_handlers)
        try:
            # An earlier worker may accept, and a client then stop the server, before this one.
            if self.stopping:
                return
            reader, writer = os.pipe()
            totals = os.memfd_create("noria-totals")
            pid = os.fork()
            if pid == 0:
                os.close(reader)
                self._run_worker(writer, totals)
            self.workers[pid] = WorkerProcess(time.monotonic(), reader, totals)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, old_mask)
        os.close(writer)

    def _run_worker(self, pipe: int, totals: int) -> None:
        """In the child: serve, write the totals, exit. It does not return."""
        status = 1
        try:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            for number in self.old_handlers:
                signal.signal(number, signal.SIG_DFL)
            signal.set_wakeup_fd(-1)
            os.close(self._wakeup_reader)
            os.close(self._wakeup_writer)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self.old_handlers)
            result = self.serve(lambda info: _report_listening(pipe))
            with open(totals, "wb") as file:
                file.write(result.encode())
            status = 0
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else 1
        except BaseException:
            log.exception("worker %d failed", os.getpid())
        finally:
            _flush()
            os._exit(status)

    def wait_until_listening(self) -> None:
        """Wait until each worker accepts connections or has exited; `run` reports those."""
        for worker in list(self.workers.values()):
            os.read(worker.pipe, len(LISTENING))

    def run(self) -> AnyTotals:
        """Wait for the workers and restart dead ones, until `stop`; return their totals.

        Raises NoriaError if workers fail at their start again and again.
        """
        while self.workers:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid in self.workers:
                self._on_exit(pid, os.waitstatus_to_exitcode(status))
            elif not pid:
                self.wait_for_signal()
        return self.total

    def wait_for_signal(self, timeout: float | None = None) -> None:
        """Wait until a signal comes, a worker ends, or `timeout` seconds are over."""
        poll = select.poll()
        poll.register(self._wakeup_reader, select.POLLIN)
        if poll.poll(None if timeout is None else timeout * 1000):
            os.read(self._wakeup_reader, 512)

    def collect(self, pid: int) -> float:
        """Add the totals of a worker that has ended; return when it was started."""
        worker = self.workers.pop(pid)
        os.close(worker.pipe)
        with open(worker.totals, "rb") as file:
            file.seek(0)  # the worker has moved the position, which both share
            encoded = file.read()
        if encoded:
            self.total.add(self.total.decode(encoded))
        return worker.started

    def _on_exit(self, pid: int, code: int) -> None:
        started = self.collect(pid)
        if self.stopping:
            return
        self.report_exit(pid, exit_reason(code))
        self.restarts += 1
        if time.monotonic() - started >= MIN_LIFETIME:
            self.failed_starts = 0
        else:
            self.failed_starts += 1
            if self.failed_starts >= MAX_FAILED_STARTS:
                self.stop()
                self.run()
                raise NoriaError(
                    f"{MAX_FAILED_STARTS} workers ended within {MIN_LIFETIME:g} s of their start"
                )
            time.sleep(min(0.05 * 2**self.failed_starts, MAX_RESTART_DELAY))
        if not self.stopping:
            self.start_worker()

    def report_exit(self, pid: int, how: str) -> None:
        """Report that a worker ended without being stopped; `how`: its signal or status."""
        log.error("worker %d ended (%s): starting another", pid, how)

    def stop(self) -> None:
        """Stop the workers as SIGTERM does."""
        self._on_signal(signal.SIGTERM, None)

    def _on_signal(self, number: int, frame: Any) -> None:
        self.stopping = True
        self.signal_workers(number)

    def signal_workers(self, number: int) -> None:
        """Send a signal to all workers."""
        for pid in list(self.workers):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def close(self) -> None:
        """Restore the parent's signal handlers; kill the workers that are left."""
        signal.set_wakeup_fd(self._old_wakeup_fd)
        os.close(self._wakeup_reader)
        os.close(self._wakeup_writer)
        for number, handler in self.old_handlers.items():
            signal.signal(number, handler)
        for pid, worker in self.workers.items():
            os.close(worker.pipe)
            os.close(worker.totals)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        self.workers.clear()


def exit_reason(code: int) -> str:
    """Return "SIGKILL" or "status 1" for a code of os.waitstatus_to_exitcode."""
    return signal.Signals(-code).name if code < 0 else f"status {code}"


def _report_listening(pipe: int) -> None:
    """Write to the parent. If it is dead, PR_SET_PDEATHSIG ends this worker."""
    with contextlib.suppress(BrokenPipeError):
        os.write(pipe, LISTENING)


def _flush() -> None:
    """Flush the output buffers, which a fork would duplicate.

    The streams may be closed, or their terminal gone.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
