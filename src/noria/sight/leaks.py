"""Leaks of a test: tasks, connections and descriptors that it leaves open.

`LoopHooks` notes what loops of this process leave when they end; a `LeakCheck` compares the
beginning and the end of a test.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import re
import socket
import sys
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from noria.aio.loop import EventLoop
from noria.net.listening import describe
from noria.sight.places import place_of_code
from noria.sight.replacements import Replacements

CONNECTION = "connection"

# Tasks of these packages run the test: they are no leaks.
RUNNER_PACKAGES = ("anyio", "pytest_asyncio")

# Descriptors that are no leaks: of recorders and watchdogs, which outlive their loops for a while.
OWN_DESCRIPTORS = re.compile(r"/memfd:noria-|/proc/\d+/task/\d+/schedstat")


@dataclass(frozen=True)
class Leak:
    """Something that was left: what it is, and the file, line and source text of the code."""

    kind: str  # "task", "connection", "descriptor"
    text: str
    file: str = ""
    line: int = 0
    source: str = ""
    fd: int = -1


@dataclass
class LoopHooks:
    """Notes which loops run, and what they leave when they end, while it is installed.

    A task is left if an asyncio.Runner (asyncio.run, noria.run) has to cancel it at its end. A
    connection is left if it is open when its loop is closed.

    Fixtures of a wider scope than a test may own what is opened during it: connections that they
    keep alive, for example. While such a fixture is active, only loops that were created for the
    test count.
    """

    loops: weakref.WeakSet[EventLoop] = field(default_factory=weakref.WeakSet)
    runs: int = 0
    leaks: list[Leak] = field(default_factory=list)
    shared: bool = False  # whether a fixture of a wider scope is, or was, active during the test
    wider_setups: int = 0  # setups of fixtures of a wider scope that run now
    _own: weakref.WeakSet[EventLoop] = field(default_factory=weakref.WeakSet)
    _replacements: Replacements = field(default_factory=Replacements)

    def install(self) -> None:
        """Hook into all loops of noria."""
        run_until_complete, close = EventLoop.run_until_complete, EventLoop.close
        init = EventLoop.__init__

        def init_and_note(loop: EventLoop, *args: Any, **options: Any) -> None:
            init(loop, *args, **options)
            if not self.wider_setups:
                self._own.add(loop)

        def run_and_note(loop: EventLoop, future: Any) -> Any:
            __tracebackhide__ = True
            self.loops.add(loop)
            self.runs += 1
            caller = sys._getframe(1)
            in_runner = caller.f_globals.get("__name__") == "asyncio.runners"
            if in_runner and caller.f_code.co_name != "run" and self._counts(loop):
                self._note_cancelled(loop)
            return run_until_complete(loop, future)

        def note_and_close(loop: EventLoop) -> None:
            if not loop.is_running() and not loop.is_closed() and self._counts(loop):
                self.leaks += [_connection_leak(each) for each in open_connections(loop)]
            close(loop)

        self._replacements.replace(EventLoop, "__init__", init_and_note)
        self._replacements.replace(EventLoop, "run_until_complete", run_and_note)
        self._replacements.replace(EventLoop, "close", note_and_close)

    def remove(self) -> None:
        """Undo `install`."""
        self._replacements.undo()

    def begin_test(self, *, shared: bool) -> None:
        """Begin with another test; *shared*: a fixture of a wider scope is active."""
        self.shared = shared
        self._own.clear()

    def _counts(self, loop: EventLoop) -> bool:
        """Whether what a loop leaves can only be the test's."""
        return not self.shared or loop in self._own

    def take(self) -> list[Leak]:
        """Return the leaks noted so far, and forget them."""
        leaks, self.leaks = self.leaks, []
        return leaks

    def _note_cancelled(self, loop: EventLoop) -> None:
        """Note the tasks that a runner has cancelled and is about to run to their end."""
        self.leaks += [
            task_leak(task)
            for task in asyncio.all_tasks(loop)
            if task.cancelling() and not _runs_tests(task)
        ]


class LeakCheck:
    """Compares what there is at the begin and the end of a test's call, and after its fixtures.

    What the fixtures of a test close is no leak.
    """

    def __init__(self, hooks: LoopHooks) -> None:
        self.hooks = hooks
        hooks.take()
        self._tasks_before = weakref.WeakSet(self._tasks())
        self._channels_before = {id(channel) for channel in self._channels()}
        self._descriptors_before = descriptors()
        self._tasks_after: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()
        self._channels_after: set[int] = set()
        self._descriptors_after: dict[int, str] = {}
        self._reported: set[int] = set()

    def _tasks(self) -> Iterable[asyncio.Task[Any]]:
        for loop in list(self.hooks.loops):
            if not loop.is_closed():
                yield from asyncio.all_tasks(loop)

    def _channels(self) -> Iterable[Any]:
        for loop in list(self.hooks.loops):
            if not loop.is_closed():
                yield from open_connections(loop)

    def end_of_call(self) -> list[Leak]:
        """Return what loops have left that were closed in the test's call."""
        leaks = self.hooks.take()
        self._reported = {leak.fd for leak in leaks}
        self._tasks_after = weakref.WeakSet(
            task for task in self._tasks() if task not in self._tasks_before
        )
        self._channels_after = {id(channel) for channel in self._channels()} - self._channels_before
        before = self._descriptors_before
        self._descriptors_after = {
            fd: target for fd, target in descriptors().items() if before.get(fd) != target
        }
        return leaks

    def end_of_teardown(self) -> list[Leak]:
        """Return what the test's call has created and its fixtures have not ended."""
        leaks = self.hooks.take()
        if self.hooks.shared:
            return leaks
        leaks += [
            task_leak(task)
            for task in self._tasks_after
            if not task.done() and not _runs_tests(task)
        ]
        channels = [each for each in self._channels() if id(each) in self._channels_after]
        leaks += [_connection_leak(channel) for channel in channels]
        known = self._reported | {leak.fd for leak in leaks}
        if self._descriptors_left(known):
            gc.collect()
        for fd, text in self._descriptors_left(known).items():
            if text.startswith(CONNECTION):
                leaks.append(Leak(CONNECTION, f"{text} (descriptor {fd})"))
            else:
                leaks.append(Leak("descriptor", f"descriptor {fd}: {text}"))
        return leaks

    def _descriptors_left(self, known: set[int]) -> dict[int, str]:
        now = descriptors()
        return {
            fd: describe_descriptor(fd, target)
            for fd, target in self._descriptors_after.items()
            if now.get(fd) == target and fd not in known
        }


def _runs_tests(task: asyncio.Task[Any]) -> bool:
    """Whether the task is of a package that runs asynchronous tests."""
    code = getattr(task.get_coro(), "cr_code", None)
    parts = getattr(code, "co_filename", "").split(os.sep)
    return any(package in parts for package in RUNNER_PACKAGES)


def task_leak(task: asyncio.Task[Any]) -> Leak:
    """Describe a task by its name, its coroutine and the line that it waits at."""
    coroutine = task.get_coro()
    name = getattr(coroutine, "__qualname__", None) or type(coroutine).__name__
    text = f"task {task.get_name()!r} of {name}"
    stack = task.get_stack(limit=1)
    if not stack:
        return Leak("task", text)
    _, file, line, source = place_of_code(stack[0].f_code, stack[0].f_lineno)
    return Leak("task", f"{text}, which waits here", file, line, source)


def open_connections(loop: EventLoop) -> list[Any]:
    """Return the connected channels of an asyncio loop that neither side has closed."""
    channels: list[Any] = loop.channels()
    return [
        channel
        for channel in channels
        if channel.fd >= 0 and not channel.is_closing() and not _peer_has_closed(channel.fd)
    ]


@contextlib.contextmanager
def _socket_of(fd: int) -> Iterator[socket.socket]:
    """A socket object with a copy of the descriptor. Raises OSError if it is no socket."""
    copy = os.dup(fd)
    try:
        sock = socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        raise
    with sock:
        yield sock


def _peer_has_closed(fd: int) -> bool:
    """Whether the end of the stream has arrived, and no unread data before it."""
    try:
        with _socket_of(fd) as sock:
            if sock.type != socket.SOCK_STREAM:
                return False
            return not sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:  # reset, not connected, not a socket
        return True


def _connection_leak(channel: Any) -> Leak:
    protocol = channel.get_protocol()
    name = "" if protocol is None else f", protocol {type(protocol).__qualname__}"
    text = f"{describe_descriptor(channel.fd, CONNECTION)}{name}"
    return Leak(CONNECTION, text, fd=channel.fd)


def descriptors() -> dict[int, str]:
    """Return the targets of this process's open descriptors (proc_pid_fd(5))."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one that listed the directory
            target = os.readlink(f"/proc/self/fd/{name}")
            if not OWN_DESCRIPTORS.match(target):
                found[int(name)] = target
    return found


def describe_descriptor(fd: int, target: str) -> str:
    """Return the addresses of a socket, of other descriptors `target`."""
    try:
        with _socket_of(fd) as sock:
            if sock.family not in (socket.AF_INET, socket.AF_INET6):
                return "connection of a Unix socket" if target == CONNECTION else target
            local = describe(sock.family, sock.getsockname())
            if sock.type != socket.SOCK_STREAM:
                return f"datagram socket {local}"
            if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                return f"listening socket {local}"
            with contextlib.suppress(OSError):
                return f"connection {local} to {describe(sock.family, sock.getpeername())}"
            return f"socket {local}"
    except OSError:
        return target
