"""The base class of the event loop: the compiled `Core` in front of asyncio's own loop class.

`AsyncioBase` inherits from asyncio what runs once for a process, a pipe or a signal: subprocesses,
pipes, signal handlers, executors, name resolution, asynchronous generators, exception handlers.
The private names of asyncio that this needs are listed in `noria.aio.asyncio_names_table`.
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

if TYPE_CHECKING:
    from noria._core.contract import Model

# Looked up at import: a program may later replace the name by noria's own loop.
_SelectorEventLoop = asyncio.SelectorEventLoop

# Methods of a socket that asyncio's transports call and noria's bypass.
STREAM_METHODS = ("recv", "recv_into", "send", "sendmsg")
DATAGRAM_METHODS = ("recvfrom", "send", "sendto")

# Every attribute that asyncio's own classes set. As slots they leave the instance dict empty, so
# that CPython's interpreter finds the loop's methods without a lookup in it.
ASYNCIO_ATTRIBUTES = (
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
    "_thread_id",
    "_timer_cancelled_count",
    "_transports",
    "_unix_server_sockets",
    "_watcher",
    "slow_callback_duration",
)


class _SelectorAdapter:
    """The object that asyncio's methods find in place of the loop's selector.

    The repr of asyncio's own transports (pipes) calls get_key, and the loop's close calls close.
    """

    def __init__(self, core: Core):
        self.core = core

    def get_key(self, fd: int) -> selectors.SelectorKey:
        """Return what the loop watches the descriptor for. Raises KeyError if it does not."""
        return selectors.SelectorKey(fd, fd, self.core.watched(fd), None)

    def close(self) -> None:
        """Close the loop's model."""
        self.core.close_core()


class AsyncioBase(Core, _SelectorEventLoop):
    """`Core` in front of asyncio's own event loop class."""

    __slots__ = ()

    if TYPE_CHECKING:  # private names of asyncio and of Core
        _csock: socket.socket
        _signal_handlers: dict[int, asyncio.Handle]
        _check_closed: Callable[[], None]
        _check_running: Callable[[], None]
        _asyncgen_firstiter_hook: Callable[[Any], None]
        _asyncgen_finalizer_hook: Callable[[Any], None]
        _set_coroutine_origin_tracking: Callable[[bool], None]
        _thread_id: int | None
        _add_reader: Callable[..., asyncio.Handle]
        _add_writer: Callable[..., asyncio.Handle]
        _remove_reader: Callable[[int], bool]
        _remove_writer: Callable[[int], bool]
        _ensure_fd_no_transport: Callable[[Any], None]

    def __init__(self, model: Model) -> None:
        Core.__init__(self, model)
        _SelectorEventLoop.__init__(self, cast("Any", _SelectorAdapter(self)))

    def close(self) -> None:
        """Close the loop; it cannot be used afterwards."""
        # Not Core's: asyncio's method calls it by way of the selector.
        _SelectorEventLoop.close(self)

    def run_forever(self) -> None:
        """Run until stop() is called."""
        self._check_closed()
        self._check_running()
        self._set_coroutine_origin_tracking(self.get_debug())
        hooks = sys.get_asyncgen_hooks()
        wakeup_fd_set = self._set_wakeup_fd()
        try:
            self._thread_id = threading.get_ident()
            sys.set_asyncgen_hooks(
                firstiter=self._asyncgen_firstiter_hook, finalizer=self._asyncgen_finalizer_hook
            )
            events._set_running_loop(self)
            self.turn_until_stopped()
        finally:
            self._thread_id = None
            events._set_running_loop(None)
            self._set_coroutine_origin_tracking(False)
            sys.set_asyncgen_hooks(*hooks)
            if wakeup_fd_set and not self._signal_handlers:
                signal.set_wakeup_fd(-1)

    def _set_wakeup_fd(self) -> bool:
        """Have the interpreter wake the loop on each signal; return whether it will.

        Without it, a signal that arrives right before the loop's wait would not end that wait.
        """
        if threading.current_thread() is not threading.main_thread():
            return False
        try:
            former = signal.set_wakeup_fd(self._csock.fileno(), warn_on_full_buffer=False)
        except ValueError:
            return False  # a subinterpreter
        if former not in (-1, self._csock.fileno()):
            # The program has set a descriptor of its own.
            signal.set_wakeup_fd(former)
            return False
        return True

    # asyncio's own transports serve sockets that override recv, send and the like.

    def make_selector_stream(
        self,
        sock: socket.socket,
        protocol: Any,
        waiter: Any,
        server: Any,
        context: contextvars.Context | None,
    ) -> asyncio.Transport:
        """Create asyncio's own transport for a stream socket that overrides STREAM_METHODS."""
        make = _SelectorEventLoop._make_socket_transport  # type: ignore[attr-defined]
        options: dict[str, Any] = {"server": server}
        if "context" in inspect.signature(make).parameters:  # from Python 3.15 on
            options["context"] = context or contextvars.copy_context()
        self.has_selector_transports = True
        transport: asyncio.Transport = make(self, sock, protocol, waiter, **options)
        return transport

    def make_selector_datagram(
        self, sock: socket.socket, protocol: Any, address: Any, waiter: Any
    ) -> asyncio.DatagramTransport:
        """Create asyncio's own transport for a datagram socket that overrides DATAGRAM_METHODS."""
        make = _SelectorEventLoop._make_datagram_transport  # type: ignore[attr-defined]
        self.has_selector_transports = True
        transport: asyncio.DatagramTransport = make(self, sock, protocol, address, waiter)
        return transport


# The base of the classes that have asyncio's public methods. At run time it is empty: each class
# that inherits from asyncio's loop takes CPython long to create.
if TYPE_CHECKING:
    LoopMethods = AsyncioBase
else:

    class LoopMethods:
        __slots__ = ()


def overrides_methods(sock: socket.socket, methods: tuple[str, ...]) -> bool:
    """Whether the socket's class, a patch or the instance replaces one of the methods."""
    cls = type(sock)
    for name in methods:
        if getattr(cls, name, None) is not getattr(_socket.socket, name):
            return True
    if cls is socket.socket:
        return False
    return any(name in getattr(sock, "__dict__", ()) for name in methods)
