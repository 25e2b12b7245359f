"""The event-driven core without asyncio: register a handler, emit an event, run.

    reactor = noria.Reactor("epoll")
    reactor.register(listener, noria.READ, accept)      # accept(listener, mask)
    reactor.on("upload.finished", celebrate)            # celebrate(name="a.txt")
    reactor.emit("upload.finished", name="a.txt")
    reactor.run()

I/O events, timers, calls and the program's own events go through one queue, in order.
"""

from __future__ import annotations

import errno
import logging
import selectors
import signal
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from noria import models
from noria._core.contract import Operation
from noria._core.loop import Loop
from noria._core.watcher import Watcher

if TYPE_CHECKING:
    import asyncio

    from noria._core.datagram import Datagrams
    from noria._core.timers import Handle, Timer
    from noria.net.listening import Server

READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE

# A listener whose handler found no free descriptor is left alone for this long, in seconds.
REST = 0.25

log = logging.getLogger("noria")

Handler = Callable[[Any, int], object]
Completion = Callable[[Any, OSError | None], object]


class _Registration:
    """What register made of a file object: its watcher's callback."""

    def __init__(self, reactor: Reactor, fileobj: Any, fd: int, events: int, handler: Handler):
        self.reactor = reactor
        self.fileobj = fileobj
        self.fd = fd
        self.events = events
        self.handler = handler
        self.watcher = Watcher(reactor.loop.model, fd, self)
        self.watcher.watch(events)

    def __call__(self, mask: int) -> None:
        try:
            self.handler(self.fileobj, mask)
        except BlockingIOError:
            if not self.reactor.asks:
                self.fault()
            # else: `nonblocking` asks by calling, and "not yet" is the usual answer.
        except Exception as error:
            self.fault(error)

    def fault(self, error: Exception | None = None) -> None:
        """The handler raised: its own connection ends; a listener goes on."""
        listening = _is_listening(self.fileobj)
        number = getattr(error, "errno", None)
        if listening and number in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
            log.error("accepting on %r: %s; waiting for one to be free", self.fileobj, error)
            self.watcher.watch(0)
            self.reactor.call_later(REST, self.resume)
            return
        end = "" if listening else ": its connection is closed"
        log.exception("the handler of %r raised%s", self.fileobj, end)
        if not listening:
            self.reactor.unregister(self.fileobj)
            close = getattr(self.fileobj, "close", None)
            if close is not None:
                close()

    def resume(self) -> None:
        if self.reactor.registrations.get(self.fd) is self:
            self.watcher.watch(self.events)

    def key(self) -> selectors.SelectorKey:
        return selectors.SelectorKey(self.fileobj, self.fd, self.events, self.handler)


def _is_listening(fileobj: Any) -> bool:
    if not isinstance(fileobj, socket.socket):
        return False
    try:
        return bool(fileobj.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        return False


def _descriptor(fileobj: Any) -> int:
    fd = fileobj if isinstance(fileobj, int) else fileobj.fileno()
    if not isinstance(fd, int) or fd < 0:
        raise ValueError(f"invalid file object: {fileobj!r} (descriptor {fd})")
    return fd


class Reactor:
    """One model, one queue, and the handlers registered with it.

    `model`: a name of noria.MODELS or ``"auto"``. `interval`: seconds between the rounds of
    ``nonblocking``. Raises UnknownModel and ModelUnavailable. It is a context manager that closes.
    Only `emit`, `call_soon_threadsafe` and `stop` may be called from other threads.
    """

    def __init__(self, model: str = "auto", *, interval: float = 0.001):
        self.loop = Loop(models.make(model, interval=interval))
        self.registrations: dict[int, _Registration] = {}
        self.asks = self.model == "nonblocking"
        self._handlers: dict[str, list[Callable[..., object]]] = {}
        self._signals: dict[int, Any] = {}
        self._servers: list[Server] = []
        self.connecting: set[socket.socket] = set()  # sockets of connects that are under way

    @property
    def model(self) -> str:
        """The name of the model it runs on."""
        return str(self.loop.model.name)

    def capability(self, kind: str) -> str:
        """``"native"``, ``"emulated"`` or ``"none"`` for a kind of noria.models.CAPABILITIES."""
        return str(self.loop.model.capability(kind))

    # Readiness of the program's own descriptors.

    def register(self, fileobj: Any, events: int, handler: Handler) -> selectors.SelectorKey:
        """Calls ``handler(fileobj, mask)`` while the file object is ready for `events`.

        `events`: READ, WRITE or both. Raises KeyError if it is registered already, ValueError for
        bad events, OSError for a bad descriptor, Unsupported if the model cannot watch.
        """
        self._check(events)
        self.loop.model.require("readiness")
        fd = _descriptor(fileobj)
        former = self.registrations.get(fd)
        if former is not None:
            if former.fileobj is fileobj or not _is_stale(former):
                raise KeyError(f"{fileobj!r} (descriptor {fd}) is registered already")
            self._drop(former)
        registration = _Registration(self, fileobj, fd, events, handler)
        self.registrations[fd] = registration
        return registration.key()

    def modify(self, fileobj: Any, events: int, handler: Handler) -> selectors.SelectorKey:
        """Changes what a registered file object is watched for, and its handler."""
        self._check(events)
        registration = self._find(fileobj)
        registration.handler = handler
        registration.events = events
        registration.watcher.watch(events)
        return registration.key()

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        """Ends the watching; raises KeyError if it is not registered. Do it before closing."""
        registration = self._find(fileobj)
        self._drop(registration)
        return registration.key()

    @staticmethod
    def _check(events: int) -> None:
        if not events or events & ~(READ | WRITE):
            raise ValueError(f"events must be READ, WRITE or both, not {events!r}")

    def _find(self, fileobj: Any) -> _Registration:
        # By identity too: a socket that was closed already has no descriptor to go by.
        try:
            registration = self.registrations[_descriptor(fileobj)]
        except (ValueError, KeyError):
            for registration in self.registrations.values():
                if registration.fileobj is fileobj:
                    return registration
            raise KeyError(f"{fileobj!r} is not registered") from None
        return registration

    def _drop(self, registration: _Registration) -> None:
        del self.registrations[registration.fd]
        registration.watcher.close()

    # The program's own events.

    def on(self, name: str, handler: Callable[..., object]) -> None:
        """Calls ``handler(**data)`` at every ``emit(name, **data)``; handlers in order of `on`."""
        self._handlers.setdefault(name, []).append(handler)

    def off(self, name: str, handler: Callable[..., object]) -> None:
        """Undoes one `on`; raises KeyError if there is none."""
        try:
            self._handlers[name].remove(handler)
        except (KeyError, ValueError):
            raise KeyError(f"{handler!r} is no handler of {name!r}") from None

    def emit(self, event: str, /, **data: Any) -> None:
        """Puts the event in the queue, behind all that happened before. From any thread."""
        self.loop.call_soon_threadsafe(self._dispatch, event, data)

    def _dispatch(self, event: str, data: dict[str, Any]) -> None:
        for handler in tuple(self._handlers.get(event, ())):
            try:
                handler(**data)
            except Exception:
                log.exception("the handler %r of event %r raised", handler, event)

    # Calls and timers.

    def call_soon(self, callback: Callable[..., object], *args: Any) -> Handle:
        """Puts a call in the queue; the handle's `cancel` keeps it from being made."""
        return self.loop.call_soon(callback, *args)

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: Any) -> Handle:
        """The same from any thread; a reactor that sleeps is woken."""
        return self.loop.call_soon_threadsafe(callback, *args)

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Timer:
        """Calls after `delay` seconds."""
        return self.loop.call_later(delay, callback, *args)

    def call_at(self, when: float, callback: Callable[..., object], *args: Any) -> Timer:
        """Calls at `when`, in seconds of `time()`."""
        return self.loop.call_at(when, callback, *args)

    def time(self) -> float:
        """The clock of the timers, in seconds (time.monotonic)."""
        return float(self.loop.time())

    # Sockets with asyncio protocols.

    def listen(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str | None = "127.0.0.1",
        port: int = 0,
        *,
        unix: str | None = None,
        sock: socket.socket | None = None,
        backlog: int = 1024,
        reuse_port: bool = False,
    ) -> Server:
        """Serves the protocol on TCP, on a Unix socket, or on a socket made by the caller.

        Raises OSError that names the address, and Unsupported or ModelLimit by the model.
        """
        from noria.net.listening import Server

        self.loop.model.require("accept")
        server = Server(self, protocol_factory)
        if sock is not None:
            server.add(sock)
        elif unix is not None:
            server.bind_unix(unix, backlog)
        else:
            server.bind_tcp(host, port, backlog, reuse_port)
        self._servers.append(server)
        return server

    def connect(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        address: Any,
        callback: Completion | None = None,
    ) -> Operation:
        """Connects to ``(host, port)`` or a Unix path; then the protocol's connection_made.

        `host` is a numeric address. `callback(transport, error)` tells how it went; without one a
        failure is logged. Returns the operation.
        """
        from noria.net.connecting import connect

        return connect(self, protocol_factory, address, callback)

    def datagram(
        self, protocol_factory: Callable[[], asyncio.DatagramProtocol], sock: socket.socket
    ) -> Datagrams:
        """Hands a bound or connected datagram socket to the protocol, and its ownership with it."""
        from noria._core.datagram import Datagrams

        self.loop.model.require("udp")
        return Datagrams(self.loop, sock, protocol_factory())

    # Files.

    def read(self, fileobj: Any, size: int, offset: int, callback: Completion) -> Operation:
        """Reads up to `size` bytes at `offset`; then ``callback(data, error)``."""
        return self._operate(2, fileobj, None, size, offset, callback)

    def write(self, fileobj: Any, data: bytes, offset: int, callback: Completion) -> Operation:
        """Writes `data` at `offset`; then ``callback(written, error)``: it may be a part."""
        return self._operate(3, fileobj, data, 0, offset, callback)

    def fsync(self, fileobj: Any, callback: Completion) -> Operation:
        """Makes sure that what was written is on the device; then ``callback(0, error)``."""
        return self._operate(4, fileobj, None, 0, 0, callback)

    def cancel(self, operation: Operation) -> None:
        """The operation's callback will not be called; it may have happened all the same."""
        self.loop.cancel(operation)

    def _operate(
        self, kind: int, fileobj: Any, data: bytes | None, size: int, offset: int, callback: Any
    ) -> Operation:
        self.loop.model.require("files")
        operation = Operation(kind, _descriptor(fileobj), data, size, offset, callback)
        self.loop.submit(operation)
        return operation

    # Signals.

    def signal(self, number: int, handler: Callable[[int], object] | None) -> None:
        """Calls ``handler(number)`` from the queue when the signal comes; None takes it back.

        Only in the main thread (ValueError elsewhere), as Python has it.
        """
        if handler is None:
            if number in self._signals:
                signal.signal(number, self._signals.pop(number))
            return
        call = handler

        def arrived(number: int, frame: Any) -> None:
            self.loop.call_soon(call, number)

        former = signal.signal(number, arrived)
        self._signals.setdefault(number, former)

    # Running.

    def run(self) -> None:
        """Waits and dispatches until `stop`. Ctrl-C raises KeyboardInterrupt out of here."""
        with _WakeUp(self.loop):
            self.loop.run()

    def run_once(self, timeout: float | None = None) -> None:
        """One turn: waits at most `timeout` seconds (None: without limit), then dispatches."""
        with _WakeUp(self.loop):
            self.loop.run_once(timeout)

    def stop(self) -> None:
        """Ends `run` after the present turn, or the next `run` after its first one; from any thread
        or handler."""
        self.loop.stop()

    def close(self) -> None:
        """Ends servers, connections and registrations, and gives the model back."""
        if self.loop.closed:
            return
        for server in self._servers:
            server.abort()
        for registration in list(self.registrations.values()):
            self._drop(registration)
        for number in list(self._signals):
            self.signal(number, None)
        # connection_lost is called from the queue: give it the turns it needs.
        for _ in range(100):
            if self.loop.model.inherited:  # a fork's child: the parent goes on with them
                break
            if not self.loop.pending()[0] and not any(server.streams for server in self._servers):
                break
            self.loop.run_once(0.01)
        self.loop.close()
        while self.connecting:
            self.connecting.pop().close()

    def __enter__(self) -> Reactor:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.loop.closed else "running" if self.loop.running else "idle"
        return f"<noria.Reactor {self.model} {state}>"


def _is_stale(registration: _Registration) -> bool:
    """The former owner of the descriptor closed it without unregistering."""
    try:
        return _descriptor(registration.fileobj) != registration.fd
    except (ValueError, OSError):
        return True


class _WakeUp:
    """While a loop runs in the main thread, a signal writes to the pipe that wakes its wait."""

    def __init__(self, loop: Loop):
        self.loop = loop
        self.former: int | None = None

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        fd = self.loop.prepare()
        if fd >= 0:
            self.former = signal.set_wakeup_fd(fd, warn_on_full_buffer=False)

    def __exit__(self, *exc: object) -> None:
        if self.former is not None:
            signal.set_wakeup_fd(self.former)


__all__ = ["READ", "WRITE", "Reactor"]
