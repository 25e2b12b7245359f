"""Several processes that serve one port: a parent that forks them and starts dead ones again."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from noria import models
from noria.errors import NoriaError
from noria.net.listening import describe, tcp_sockets, unix_socket
from noria.servers import serve as _serve

if TYPE_CHECKING:
    import socket

    from noria.servers.serve import Plan, ServerInfo, Summary

log = logging.getLogger("noria")

# A worker that lived shorter than this (seconds) died of its start; after that many in a row there
# is no use in going on.
SHORT_LIFE = 1.0
SHORT_LIVES = 10
PR_SET_PDEATHSIG = 1
LISTENING = b"+"  # what a worker writes to its pipe first; its summary follows at the end


def supervise(plan: Plan, workers: int, ready: Callable[[ServerInfo], object] | None) -> Summary:
    """Runs the workers until a signal; the sum of what they did."""
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("several workers need the main thread, for the signals that end them")
    chosen, reason = models.choose() if plan.model == "auto" else (plan.model, "")
    models.make(chosen, interval=plan.interval).close()  # says here what every worker would say
    sockets = _bind(plan)
    addresses = [describe(sock.family, sock.getsockname()) for sock in sockets]
    supervisor = Supervisor(replace(plan, model=chosen), sockets)
    try:
        for _ in range(workers):
            supervisor.start()
        supervisor.await_listening()
        if ready is not None:
            ready(_serve.ServerInfo(addresses, chosen, reason, os.getpid(), supervisor.stop))
        summary = supervisor.run()
    finally:
        supervisor.close()
        for sock in sockets:
            sock.close()
        if plan.unix is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(plan.unix)
    summary.workers = workers
    return summary


def _bind(plan: Plan) -> list[socket.socket]:
    """The parent binds, so that the port is taken as long as it lives; it never listens on TCP."""
    if plan.unix is not None:
        sock = unix_socket(plan.unix)
        sock.listen(plan.backlog)
        return [sock]
    return tcp_sockets(plan.host, plan.port, reuse_port=True)


class Supervisor:
    """Starts workers, starts dead ones again, and passes signals on."""

    def __init__(self, plan: Plan, sockets: list[socket.socket]):
        self.plan = plan
        self.sockets = sockets
        self.children: dict[int, tuple[float, int]] = {}  # pid: (since, the pipe of its summary)
        self.stopping = False
        self.short_lives = 0
        self.total = _serve.Summary()
        handled = [signal.SIGINT, signal.SIGTERM]
        if _serve.ends_by_hangup():  # else the workers would outlive their parent, without a port
            handled.append(signal.SIGHUP)
        self.former = {number: signal.signal(number, self._signalled) for number in handled}

    def start(self) -> None:
        reader, writer = os.pipe()
        _flush()
        # A signal in between would miss the child that is not known yet, and reach the handler of
        # the parent in it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, self.former)
        try:
            pid = os.fork()
            if pid == 0:
                os.close(reader)
                self._work(writer)
            self.children[pid] = (time.monotonic(), reader)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(writer)

    def _work(self, writer: int) -> None:
        """The child: serves, writes its summary to the pipe, and exits without coming back."""
        status = 1
        try:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            for number in self.former:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self.former)
            summary = self.serve(lambda info: _report(writer, LISTENING))
            _report(writer, json.dumps(dataclasses.asdict(summary)).encode())
            status = 0
        except BaseException:
            log.exception("worker %d failed", os.getpid())
        finally:
            _flush()
            os._exit(status)

    def await_listening(self) -> None:
        """Waits until each worker accepts connections, or is dead, which `run` finds out."""
        for _, reader in list(self.children.values()):
            os.read(reader, len(LISTENING))

    def serve(self, ready: Callable[[ServerInfo], object]) -> Summary:
        """What a worker does; the file server's do something else."""
        return _serve.serve_here(self._own_plan(), ready)

    def _own_plan(self) -> Plan:
        if self.plan.unix is not None:
            return replace(self.plan, unix=None, sock=self.sockets[0].dup())
        name: Any = self.sockets[0].getsockname()
        return replace(self.plan, port=name[1], reuse_port=True)

    def run(self) -> Summary:
        while self.children:
            try:
                pid, status = os.waitpid(-1, 0)
            except ChildProcessError:
                break
            if pid in self.children:
                self._ended(pid, os.waitstatus_to_exitcode(status))
        return self.total

    def _ended(self, pid: int, code: int) -> None:
        since, reader = self.children.pop(pid)
        with open(reader, "rb") as pipe:
            report = pipe.read().removeprefix(LISTENING)
        if report:
            for key, value in json.loads(report).items():
                setattr(self.total, key, getattr(self.total, key) + value)
        if self.stopping:
            return
        how = signal.Signals(-code).name if code < 0 else f"status {code}"
        log.error("worker %d ended (%s): starting another", pid, how)
        if time.monotonic() - since >= SHORT_LIFE:
            self.short_lives = 0
        else:
            self.short_lives += 1
            if self.short_lives >= SHORT_LIVES:
                self.stop()
                self.run()
                raise NoriaError(
                    f"{SHORT_LIVES} workers ended within {SHORT_LIFE:g} s of their start"
                )
            time.sleep(min(0.05 * 2**self.short_lives, 2.0))
        if not self.stopping:
            self.start()

    def stop(self) -> None:
        self._signalled(signal.SIGTERM, None)

    def _signalled(self, number: int, frame: Any) -> None:
        self.stopping = True
        for pid in list(self.children):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def close(self) -> None:
        for number, handler in self.former.items():
            signal.signal(number, handler)
        for pid, (_, reader) in self.children.items():
            os.close(reader)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        self.children.clear()


def _report(writer: int, data: bytes) -> None:
    """Writes to the parent, which may be dead: then the worker ends by PR_SET_PDEATHSIG."""
    with contextlib.suppress(BrokenPipeError):
        os.write(writer, data)


def _flush() -> None:
    """Empties the buffers that a fork would double. A stream may be closed, or its terminal."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
