"""Where the loop and asyncio's own event loop class meet.

`AsyncioBase` inherits what runs once for a process, a pipe or a signal: subprocesses, pipes, signal
handlers, executors, name resolution, asynchronous generators, exception handlers. Every private
name of asyncio that this needs is in `noria.aio.asyncio_names`; the methods here are the ones that
asyncio's code calls in turn.
"""

from __future__ import annotations

import _socket
import asyncio
import contextvars
import inspect
import selectors
import signal
import socket
import sys
import threading
from asyncio import events
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from noria._core.aio.core import Core

_Base = asyncio.SelectorEventLoop  # a program may put noria's loop in the place of that name

# Methods of a socket that asyncio's transports call, and noria's do not.
STREAM_METHODS = ("recv", "recv_into", "send", "sendmsg")
DATAGRAM_METHODS = ("recvfrom", "send", "sendto")

# All that asyncio's own classes keep. With none of it in a dict, CPython's interpreter finds the
# loop's methods without looking for an attribute of that name first.
ATTRIBUTES = (
    "_asyncgens",
    "_asyncgens_shutdown_called",
    "_clock_resolution",
    "_closed",
    "_coroutine_origin_tracking_enabled",
    "_coroutine_origin_tracking_saved_depth",
    "_csock",
    "_current_handle",
    "_debug",
    "_default_executor",
    "_exception_handler",
    "_executor_shutdown_called",
    "_internal_fds",
    "_old_agen_hooks",
    "_ready",
    "_scheduled",
    "_selector",
    "_signal_handlers",
    "_ssock",
    "_stopping",
    "_task_factory",
    "_thread_id",
    "_timer_cancelled_count",
    "_transports",
    "_unix_server_sockets",
    "_watcher",
    "slow_callback_duration",
)


class _NoSelector:
    """Stands where asyncio's loop has its selector.

    asyncio's own transports (pipes) look into it for their repr, and close() ends it.
    """

    def __init__(self, core: Core):
        self.core = core

    def get_key(self, fd: int) -> selectors.SelectorKey:
        """What the loop watches the descriptor for; raises KeyError if for nothing."""
        return selectors.SelectorKey(fd, fd, self.core.watched(fd), None)

    def close(self) -> None:
        self.core.close_core()


class AsyncioBase(_Base):
    """asyncio's own loop, prepared to run on `Core`."""

    __slots__ = ()

    if TYPE_CHECKING:  # asyncio's own, which its stubs leave out
        _csock: socket.socket
        _signal_handlers: dict[int, asyncio.Handle]
        _check_closed: Callable[[], None]
        _check_running: Callable[[], None]
        _asyncgen_firstiter_hook: Callable[[Any], None]
        _asyncgen_finalizer_hook: Callable[[Any], None]
        _set_coroutine_origin_tracking: Callable[[bool], None]
        _thread_id: int | None

    def __init__(self) -> None:
        super().__init__(cast("Any", _NoSelector(cast("Core", self))))

    def run_forever(self) -> None:
        """Run until stop() is called."""
        self._check_closed()
        self._check_running()
        self._set_coroutine_origin_tracking(self.get_debug())
        hooks = sys.get_asyncgen_hooks()
        wakes = self._let_signals_wake()
        try:
            self._thread_id = threading.get_ident()
            sys.set_asyncgen_hooks(
                firstiter=self._asyncgen_firstiter_hook, finalizer=self._asyncgen_finalizer_hook
            )
            events._set_running_loop(self)
            cast("Core", self).turn_until_stopped()
        finally:
            self._thread_id = None
            events._set_running_loop(None)
            self._set_coroutine_origin_tracking(False)
            sys.set_asyncgen_hooks(*hooks)
            if wakes and not self._signal_handlers:
                signal.set_wakeup_fd(-1)

    def _let_signals_wake(self) -> bool:
        """Have signals end the loop's wait, also those that come right before it."""
        if threading.current_thread() is not threading.main_thread():
            return False
        try:
            former = signal.set_wakeup_fd(self._csock.fileno(), warn_on_full_buffer=False)
        except ValueError:
            return False  # a subinterpreter
        if former not in (-1, self._csock.fileno()):
            signal.set_wakeup_fd(former)
            return False
        return True

    # Sockets that do their own reading and writing are asyncio's transports' to use.

    def make_selector_stream(
        self,
        sock: socket.socket,
        protocol: Any,
        waiter: Any,
        server: Any,
        context: contextvars.Context | None,
    ) -> asyncio.Transport:
        """asyncio's own transport for a stream socket that overrides STREAM_METHODS."""
        make = _Base._make_socket_transport  # type: ignore[attr-defined]
        options: dict[str, Any] = {"server": server}
        if "context" in inspect.signature(make).parameters:  # from Python 3.15 on
            options["context"] = context or contextvars.copy_context()
        cast("Core", self).has_selector_transports = True
        made: asyncio.Transport = make(self, sock, protocol, waiter, **options)
        return made

    def make_selector_datagram(
        self, sock: socket.socket, protocol: Any, address: Any, waiter: Any
    ) -> asyncio.DatagramTransport:
        """asyncio's own transport for a datagram socket that overrides DATAGRAM_METHODS."""
        make = _Base._make_datagram_transport  # type: ignore[attr-defined]
        cast("Core", self).has_selector_transports = True
        made: asyncio.DatagramTransport = make(self, sock, protocol, address, waiter)
        return made


def overrides(sock: socket.socket, methods: tuple[str, ...]) -> bool:
    """Whether the socket has its own way of doing one of the methods: a subclass, or patched."""
    kind = type(sock)
    for name in methods:
        if getattr(kind, name, None) is not getattr(_socket.socket, name):
            return True
    if kind is socket.socket:
        return False
    return any(name in getattr(sock, "__dict__", ()) for name in methods)
