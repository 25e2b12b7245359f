"""The reactor: callbacks on any model, without asyncio.

    reactor = noria.Reactor("epoll")
    reactor.register(listener, noria.READ, accept)      # accept(listener, mask)
    reactor.on("upload.finished", report)               # report(name="a.txt")
    reactor.emit("upload.finished", name="a.txt")
    reactor.run()

I/O events, timers, calls and the program's events share one queue: handlers run in its order.
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
from noria._core.contract import FSYNC, PREAD, PWRITE, Operation
from noria._core.loop import Loop
from noria._core.watcher import Watcher

if TYPE_CHECKING:
    import asyncio

    from noria._core.datagram import Datagrams
    from noria._core.timers import Handle, Timer
    from noria.net.listening import Server

READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE

# Seconds until a listening socket is watched again, after accept(2) found no free descriptor.
ACCEPT_RETRY_DELAY = 0.25

MAX_CLOSING_TURNS = 100

log = logging.getLogger("noria")

Handler = Callable[[Any, int], object]
Completion = Callable[[Any, OSError | None], object]


class _Registration:
    """A registered file object with its handler; the callback of its watcher."""

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
            # A model that emulates readiness calls each handler in turn to find out whether its
            # file is ready: for such a model, EAGAIN is the usual result and no error.
            if not self.reactor.emulates_readiness:
                self.handle_error()
        except Exception as error:
            self.handle_error(error)

    def handle_error(self, error: Exception | None = None) -> None:
        """Log what the handler raised and close its file; a listening socket stays open."""
        listening = _is_listening(self.fileobj)
        number = getattr(error, "errno", None)
        if listening and number in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
            log.error(
                "accept on %r: %s; accepting resumes in %g s",
                self.fileobj,
                error,
                ACCEPT_RETRY_DELAY,
            )
            self.watcher.watch(0)
            self.reactor.call_later(ACCEPT_RETRY_DELAY, self.resume)
            return
        end = "" if listening else ": its connection is closed"
        log.exception("the handler of %r raised%s", self.fileobj, end)
        if not listening:
            self.reactor.unregister(self.fileobj)
            close = getattr(self.fileobj, "close", None)
            if close is not None:
                close()

    def resume(self) -> None:
        """Watch a listening socket again."""
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
    """One model, one queue of events, and the handlers registered for them.

    Args:
        model: a name from `noria.MODELS`, or ``"auto"``.
        interval: seconds between the rounds of the model ``nonblocking``.

    Raises UnknownModel or ModelUnavailable. A reactor is a context manager that closes itself.
    Only `emit`, `call_soon_threadsafe` and `stop` may be called from other threads.
    """

    def __init__(self, model: str = "auto", *, interval: float = 0.001):
        self.loop = Loop(models.make(model, interval=interval))
        self.registrations: dict[int, _Registration] = {}
        self.emulates_readiness = self.capability("readiness") == "emulated"
        self._handlers: dict[str, list[Callable[..., object]]] = {}
        self._signals: dict[int, Any] = {}
        self._servers: list[Server] = []
        self._connecting: set[socket.socket] = set()

    @property
    def model(self) -> str:
        """The name of the model."""
        return str(self.loop.model.name)

    def capability(self, kind: str) -> str:
        """``"native"``, ``"emulated"`` or ``"none"``, for a name from noria.models.CAPABILITIES."""
        return str(self.loop.model.capability(kind))

    # Readiness of the program's descriptors.

    def register(self, fileobj: Any, events: int, handler: Handler) -> selectors.SelectorKey:
        """Call ``handler(fileobj, mask)`` when the file object is ready for `events`.

        `events`: READ, WRITE or both. With an edge-triggered model the handler is called once for
        each change. Raises KeyError if the file object is registered already, ValueError for
        invalid events, OSError for an invalid descriptor, and Unsupported if the model cannot
        watch descriptors.
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
        """Replace the events and the handler of a registered file object."""
        self._check(events)
        registration = self._find(fileobj)
        registration.handler = handler
        registration.events = events
        registration.watcher.watch(events)
        return registration.key()

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        """Stop watching the file object; call this before closing it.

        Raises KeyError if it is not registered.
        """
        registration = self._find(fileobj)
        self._drop(registration)
        return registration.key()

    @staticmethod
    def _check(events: int) -> None:
        if not events or events & ~(READ | WRITE):
            raise ValueError(f"events must be READ, WRITE or both, not {events!r}")

    def _find(self, fileobj: Any) -> _Registration:
        # A socket that is closed already has no descriptor: it is found by identity.
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

    # The program's events.

    def on(self, name: str, handler: Callable[..., object]) -> None:
        """Call ``handler(**data)`` at each ``emit(name, **data)``, in the order of registration."""
        self._handlers.setdefault(name, []).append(handler)

    def off(self, name: str, handler: Callable[..., object]) -> None:
        """Remove a handler that `on` added. Raises KeyError if there is none."""
        try:
            self._handlers[name].remove(handler)
        except (KeyError, ValueError):
            raise KeyError(f"{handler!r} is no handler of {name!r}") from None

    def handlers(self, name: str) -> tuple[Callable[..., object], ...]:
        """Return the handlers of an event, in the order of registration."""
        return tuple(self._handlers.get(name, ()))

    def emit(self, event: str, /, **data: Any) -> None:
        """Put an event at the end of the queue. May be called from any thread."""
        self.loop.call_soon_threadsafe(self._dispatch, event, data)

    def _dispatch(self, event: str, data: dict[str, Any]) -> None:
        for handler in self.handlers(event):
            try:
                handler(**data)
            except Exception:
                log.exception("the handler %r of event %r raised", handler, event)

    # Calls and timers.

    def call_soon(self, callback: Callable[..., object], *args: Any) -> Handle:
        """Put a call at the end of the queue; `cancel` of the handle removes it."""
        return self.loop.call_soon(callback, *args)

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: Any) -> Handle:
        """Like `call_soon`, from any thread; a waiting reactor is woken."""
        return self.loop.call_soon_threadsafe(callback, *args)

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Timer:
        """Call `callback` after `delay` seconds."""
        return self.loop.call_later(delay, callback, *args)

    def call_at(self, when: float, callback: Callable[..., object], *args: Any) -> Timer:
        """Call `callback` at `when`, in seconds of `time()`."""
        return self.loop.call_at(when, callback, *args)

    def time(self) -> float:
        """The time in seconds, by the clock of the timers (time.monotonic)."""
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
        """Serve a protocol on a TCP port, on a Unix socket, or on a socket of the caller.

        Args:
            protocol_factory: called for each connection; returns an asyncio protocol.
            host: an address or a host name; None for all addresses of this machine.
            port: the TCP port; 0 for any free port.
            unix: the path of a Unix socket; replaces `host` and `port`.
            sock: a listening socket, which the server takes over; replaces all of these.
            backlog: connections that may wait in the kernel for accept(2); see listen(2).
            reuse_port: set SO_REUSEPORT, so that several processes can serve one port.

        Raises OSError, with the address in its message, and Unsupported or ModelLimit if the model
        cannot accept (more) connections.
        """
        from noria.net.listening import Server

        self.loop.model.require("accept")
        server = Server(self.loop, protocol_factory)
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
        """Connect a protocol to ``(host, port)`` or to the path of a Unix socket.

        `host` is a numeric address. ``callback(transport, error)`` is called with the outcome, one
        of the two being None; without a callback a failure is logged. Returns the operation, which
        `cancel` takes.
        """
        from noria.net.connecting import connect

        return connect(self.loop, protocol_factory, address, callback, self._connecting)

    def datagram(
        self, protocol_factory: Callable[[], asyncio.DatagramProtocol], sock: socket.socket
    ) -> Datagrams:
        """Serve a datagram protocol on a bound or connected socket, which the transport closes."""
        from noria._core.datagram import Datagrams

        self.loop.model.require("udp")
        return Datagrams(self.loop, sock, protocol_factory())

    # Files.

    def read(self, fileobj: Any, size: int, offset: int, callback: Completion) -> Operation:
        """Read up to `size` bytes at `offset`, then call ``callback(data, error)``."""
        return self._submit(PREAD, fileobj, None, size, offset, callback)

    def write(self, fileobj: Any, data: bytes, offset: int, callback: Completion) -> Operation:
        """Write `data` at `offset`, then call ``callback(bytes_written, error)``.

        As with pwrite(2), fewer bytes than given may be written.
        """
        return self._submit(PWRITE, fileobj, data, 0, offset, callback)

    def fsync(self, fileobj: Any, callback: Completion) -> Operation:
        """Flush written data to the device (fsync(2)), then call ``callback(0, error)``."""
        return self._submit(FSYNC, fileobj, None, 0, 0, callback)

    def cancel(self, operation: Operation) -> None:
        """Drop the operation's callback. The operation itself may have taken place already."""
        self.loop.cancel(operation)

    def _submit(
        self, kind: int, fileobj: Any, data: bytes | None, size: int, offset: int, callback: Any
    ) -> Operation:
        self.loop.model.require("files")
        operation = Operation(kind, _descriptor(fileobj), data, size, offset, callback)
        self.loop.submit(operation)
        return operation

    # Signals.

    def signal(self, number: int, handler: Callable[[int], object] | None) -> None:
        """Call ``handler(number)`` from the queue when the signal arrives.

        A handler of None restores the former one. Raises ValueError in other threads than the main
        thread, as signal.signal does.
        """
        if handler is None:
            if number in self._signals:
                signal.signal(number, self._signals.pop(number))
            return
        queued_handler = handler

        def on_signal(number: int, frame: Any) -> None:
            self.loop.call_soon(queued_handler, number)

        former = signal.signal(number, on_signal)
        self._signals.setdefault(number, former)

    # Running.

    def run(self) -> None:
        """Wait for events and call their handlers until `stop`.

        Ctrl-C raises KeyboardInterrupt from this call.
        """
        with _WakeUp(self.loop):
            self.loop.run()

    def run_once(self, timeout: float | None = None) -> None:
        """Wait for events for at most `timeout` seconds (None: no limit), call their handlers."""
        with _WakeUp(self.loop):
            self.loop.run_once(timeout)

    def stop(self) -> None:
        """Make `run` return after this turn. May be called from any thread.

        If the reactor is not running, the next `run` returns after one turn.
        """
        self.loop.stop()

    def close(self) -> None:
        """Close the servers, their connections, the registrations and the model."""
        if self.loop.closed:
            return
        for server in self._servers:
            server.abort()
        for registration in list(self.registrations.values()):
            self._drop(registration)
        for number in list(self._signals):
            self.signal(number, None)
        # connection_lost is called from the queue: run the turns that this takes.
        for _ in range(MAX_CLOSING_TURNS):
            # In the child of a fork, the connections are still the parent's.
            if self.loop.model.inherited:
                break
            if not self.loop.pending()[0] and not any(server.streams for server in self._servers):
                break
            self.loop.run_once(0.01)
        self.loop.close()
        while self._connecting:
            self._connecting.pop().close()

    def __enter__(self) -> Reactor:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.loop.closed else "running" if self.loop.running else "idle"
        return f"<noria.Reactor {self.model} {state}>"


def _is_stale(registration: _Registration) -> bool:
    """Whether the program closed the file object without unregistering it."""
    try:
        return _descriptor(registration.fileobj) != registration.fd
    except (ValueError, OSError):
        return True


class _WakeUp:
    """Set the signal wake-up descriptor while a loop runs in the main thread.

    A signal then ends the loop's wait.
    """

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
