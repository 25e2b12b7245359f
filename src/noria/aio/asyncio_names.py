"""The private names of asyncio that noria uses, and a check of them against the running Python.

asyncio has no public interface for some of what noria replaces: the TLS protocol's record layer,
the fields of the stream classes. Each such name is an entry of NAMES. Python may rename it or
change its arguments in any release; `unknown` compares the table with the running Python and
returns one sentence for each difference. `noria.aio.tls` and `noria.aio.streams` use asyncio's own
classes in place of noria's compiled ones when one of their names is unknown.

This module imports nothing else of noria.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from typing import Any, NamedTuple

NEWEST_TESTED = (3, 15)

METHOD = "method"  # called by noria: it may have gained optional parameters
OVERRIDDEN = "overridden method"  # called by asyncio: the parameters have to be equal
HOOK = "overridden method with optional parameters"  # called by asyncio with these at most
FIELD = "attribute of instances"
SLOT = "slot of noria's loop"  # for what asyncio's class sets; never reported as unknown
FUNCTION = "function"
CLASS = "class"  # the parameters are those of its constructor
CONSTANT = "constant"
PROVIDED = "attribute of noria's objects"  # that asyncio's class uses


class PrivateName(NamedTuple):
    """A name that asyncio does not document, and how noria depends on it."""

    owner: str  # dotted path of the module or class that has it
    name: str
    kind: str
    parameters: tuple[str, ...] | None  # None if it is not callable
    used_by: str  # modules of noria, separated by commas
    reason: str
    fallback: str
    # If given: all names that the method's code may use. PROVIDED: all private ones that the
    # class may use and neither has nor sets when it is made.
    body: tuple[str, ...] = ()
    first: tuple[int, int] = (3, 11)  # Python versions that have it
    last: tuple[int, int] | None = None


def _group(owner: str, used_by: str, fallback: str, *rows: tuple[Any, ...]) -> list[PrivateName]:
    """Entries of one owner. A row is (kind, names, parameters, reason), optionally (…, fields)."""
    entries = []
    for kind, names, parameters, reason, *more in rows:
        parts = None if parameters is None else tuple(parameters.split())
        options: dict[str, Any] = more[0] if more else {}
        entries += [
            PrivateName(owner, name, kind, parts, used_by, reason, fallback, **options)
            for name in names.split()
        ]
    return entries


_TLS = "noria.aio.tls_protocol, noria._core.aio.tls"
_TLS_FALLBACK = "connections use asyncio.sslproto.SSLProtocol itself: TLS works, but slower"
_STREAMS = "noria.aio.stream_classes, noria._core.aio.streams"
_STREAMS_FALLBACK = "noria's streams are asyncio's own classes: they work, but slower"
_ENUM = "compared with the state of a connection before and after each read"

NAMES: tuple[PrivateName, ...] = (
    *_group(
        "asyncio.sslproto",
        _TLS,
        _TLS_FALLBACK,
        (
            CLASS,
            "SSLProtocol",
            "self loop app_protocol sslcontext waiter server_side server_hostname "
            "call_connection_made ssl_handshake_timeout ssl_shutdown_timeout",
            "the base class: handshake, shutdown, timeouts",
        ),
        (
            CLASS,
            "_SSLProtocolTransport",
            "self loop ssl_protocol",
            "the base class of the transport behind TLS, whose write is replaced",
        ),
    ),
    *_group(
        "asyncio.sslproto.SSLProtocolState",
        _TLS,
        _TLS_FALLBACK,
        (CONSTANT, "WRAPPED FLUSHING", None, _ENUM),
    ),
    *_group(
        "asyncio.sslproto.SSLProtocol",
        _TLS,
        _TLS_FALLBACK,
        (
            OVERRIDDEN,
            "_do_read",
            "self",
            "replaced: no read is tried that could only raise SSLWantReadError",
            {
                "body": (
                    *("_state", "SSLProtocolState", "WRAPPED", "FLUSHING", "_app_reading_paused"),
                    *("_app_protocol_is_buffer", "_do_read__buffered", "_do_read__copied"),
                    *("_write_backlog", "_do_write", "_process_outgoing", "_control_ssl_reading"),
                    *("Exception", "_fatal_error"),
                )
            },
        ),
        (
            OVERRIDDEN,
            "_write_appdata",
            "self list_of_data",
            "extended: data that has to wait is copied, as its owner may change it",
        ),
        (OVERRIDDEN, "_get_app_transport", "self", "extended: makes noria's transport"),
        (
            OVERRIDDEN,
            "_set_app_protocol",
            "self app_protocol",
            "extended: the protocol's data_received is looked up once",
        ),
        (METHOD, "_do_read__buffered", "self", "reads for a BufferedProtocol"),
        (METHOD, "_do_write", "self", "encrypts what waited"),
        (METHOD, "_process_outgoing", "self", "sends ciphertext where asyncio's rules apply"),
        (METHOD, "_control_ssl_reading", "self", "pauses and resumes the transport below"),
        (METHOD, "_call_eof_received", "self", "reports close_notify to the protocol"),
        (METHOD, "_start_shutdown", "self", "starts the shutdown after close_notify"),
        (METHOD, "_fatal_error", "self exc message", "reports an error and closes"),
        (
            FIELD,
            "_state _sslobj _incoming _outgoing _transport _write_backlog _write_buffer_size "
            "_incoming_high_water _outgoing_high_water _app_reading_paused _ssl_reading_paused "
            "_ssl_writing_paused _app_writing_paused _app_protocol_is_buffer",
            None,
            "a C field of noria's class under asyncio's name, so that both see one state",
        ),
        (
            FIELD,
            "_app_protocol_get_buffer",
            None,
            "wrapped: a protocol may return a bytearray, whose slices are copies",
        ),
        (
            FIELD,
            "_ssl_buffer _ssl_buffer_view",
            None,
            "replaced by an empty buffer: 256 KiB less for each connection",
        ),
        (FIELD, "_app_transport _app_transport_created", None, "set with noria's transport"),
        (FIELD, "_extra", None, "has an ssl_object once the handshake succeeded"),
        (FIELD, "_loop", None, "passed to noria's transport"),
    ),
    *_group(
        "asyncio.StreamReader",
        _STREAMS,
        _STREAMS_FALLBACK,
        (
            FIELD,
            "_limit _loop _waiter _exception _transport _eof _paused _buffer",
            None,
            "a C field of noria's class under asyncio's name, so that both see one state",
        ),
    ),
    *_group(
        "asyncio.StreamReaderProtocol",
        _STREAMS,
        _STREAMS_FALLBACK,
        (
            FIELD,
            "_stream_reader_wr _paused _connection_lost",
            None,
            "a C field of noria's class under asyncio's name, so that both see one state",
        ),
        (
            OVERRIDDEN,
            "connection_made",
            "self transport",
            "public, but replaced as a whole: asyncio's makes a StreamWriter of its own",
            {
                "body": (
                    *("_reject_connection", "_source_traceback", "_loop", "abort", "close"),
                    *("call_exception_handler", "_transport", "_stream_reader", "set_transport"),
                    *("get_extra_info", "_over_ssl", "_client_connected_cb", "StreamWriter"),
                    *("_stream_writer", "coroutines", "iscoroutine", "create_task", "_task"),
                    *("add_done_callback", "_strong_reader", "Exception"),
                )
            },
        ),
        (
            FIELD,
            "_client_connected_cb _stream_reader _reject_connection _over_ssl _strong_reader "
            "_loop _transport _task",
            None,
            "read or set by noria's connection_made, as asyncio's does",
        ),
        (
            FIELD,
            "_stream_writer",
            None,
            "the protocol keeps its writer there",
            {"last": (3, 11)},
        ),
    ),
    *_group(
        "asyncio.StreamWriter",
        _STREAMS,
        _STREAMS_FALLBACK,
        (
            OVERRIDDEN,
            "__init__",
            "self transport protocol reader loop",
            "replaced as a whole: asyncio's makes a future that nothing uses",
            {
                "body": (
                    *("_transport", "_protocol", "isinstance", "StreamReader", "AssertionError"),
                    *("_reader", "_loop", "create_future", "_complete_fut", "set_result"),
                )
            },
        ),
        (
            FIELD,
            "_transport _protocol _reader _loop",
            None,
            "a C field of noria's class under asyncio's name, so that both see one state",
        ),
    ),
    *_group(
        "asyncio.StreamReaderProtocol",
        "noria.aio.tls",
        "start_tls moves nothing: a ClientHello that is in the reader is lost",
        (FIELD, "_stream_reader", None, "the reader whose buffered data start_tls moves"),
    ),
    *_group(
        "asyncio.StreamReader",
        "noria.aio.tls",
        "start_tls moves nothing: a ClientHello that is in the reader is lost",
        (FIELD, "_buffer", None, "the data that start_tls moves into the TLS protocol"),
    ),
    *_group(
        "asyncio.sslproto.SSLProtocol",
        "noria.aio.transports",
        "none",
        (
            PROVIDED,
            "_force_close",
            None,
            "asyncio's TLS protocol closes the transport below it so",
            {
                "body": (
                    *("_force_close", "_closed", "_SSLProtocolTransport", "_app_protocol"),
                    *("_app_protocol_get_buffer", "_app_protocol_buffer_updated"),
                    "_app_protocol_is_buffer",
                )
            },
        ),
    ),
    *_group(
        "asyncio.trsock",
        "noria._core.aio.connection, noria._core.aio.datagrams, noria._core.aio.acceptor, "
        "noria._core.stream",
        "none: get_extra_info('socket') returns it, and users expect asyncio's class",
        (CLASS, "TransportSocket", "self sock", "what get_extra_info('socket') returns"),
    ),
    *_group(
        "asyncio.trsock.TransportSocket",
        "noria.aio.transports",
        "none: programs that read _sock of a transport fail",
        (FIELD, "_sock", None, "the socket.socket, for programs that read _sock of a transport"),
    ),
    *_group(
        "asyncio.trsock.TransportSocket",
        "noria._core.stream",
        "none: a stream whose socket get_extra_info has returned cannot be closed",
        (FIELD, "_sock", None, "the socket.socket, detached when the stream is closed"),
    ),
    *_group(
        "asyncio.constants",
        "noria._core.aio.datagrams",
        "none",
        (CONSTANT, "LOG_THRESHOLD_FOR_CONNLOST_WRITES", None, "writes before the first warning"),
    ),
    *_group(
        "asyncio.constants",
        "noria._core.aio.acceptor",
        "none",
        (CONSTANT, "ACCEPT_RETRY_DELAY", None, "seconds after an accept without descriptors"),
    ),
    *_group(
        "asyncio.constants",
        "noria.aio.transports",
        "none",
        (CONSTANT, "_SendfileMode", None, "how loop.sendfile treats a transport"),
    ),
    *_group(
        "asyncio.Handle",
        "noria._core.aio.descriptor",
        "none",
        (METHOD, "_run", "self", "runs a handle of a reader or writer in its context"),
        (FIELD, "_cancelled", None, "whether the handle of a reader or writer is to be skipped"),
    ),
    *_group(
        "asyncio.SelectorEventLoop",
        "noria.aio.asyncio_base",
        "none: run_forever fails",
        (METHOD, "_check_closed _check_running", "self", "what run_forever raises"),
        (
            METHOD,
            "_set_coroutine_origin_tracking",
            "self enabled",
            "debug mode remembers where coroutines were made",
        ),
        (
            METHOD,
            "_asyncgen_firstiter_hook _asyncgen_finalizer_hook",
            "self agen",
            "shutdown_asyncgens closes what these have registered",
        ),
        (FIELD, "_thread_id", None, "is_running and debug mode look at it"),
        (FIELD, "_csock", None, "where the interpreter writes a byte for each signal"),
        (FIELD, "_signal_handlers", None, "while there are any, signals go on writing there"),
    ),
    *_group(
        "asyncio.SelectorEventLoop",
        "noria.aio.asyncio_base",
        "none: loop.close() fails, and the repr of asyncio's own transports",
        (FIELD, "_selector", None, "an object with the methods that these call: close, get_key"),
    ),
    *_group(
        "asyncio.SelectorEventLoop",
        "noria.aio.asyncio_base",
        "none needed: a slot that stays empty",
        (
            SLOT,
            "_asyncgens _asyncgens_shutdown_called _clock_resolution _closed "
            "_coroutine_origin_tracking_enabled _coroutine_origin_tracking_saved_depth "
            "_current_handle _debug _default_executor _exception_handler "
            "_executor_shutdown_called _internal_fds _ready _scheduled _ssock _stopping "
            "_task_factory _timer_cancelled_count _transports _old_agen_hooks _unix_server_sockets "
            "_watcher",
            None,
            "with its instance dict empty, CPython finds the loop's methods faster",
        ),
    ),
    *_group(
        "asyncio.SelectorEventLoop",
        "noria.aio.asyncio_base",
        "none: sockets with their own recv or send cannot be used",
        (
            METHOD,
            "_make_socket_transport",
            "self sock protocol waiter extra server",
            "makes asyncio's transport for a socket that overrides recv or send",
        ),
        (
            METHOD,
            "_make_datagram_transport",
            "self sock protocol address waiter extra",
            "makes asyncio's transport for a socket that overrides recvfrom or sendto",
        ),
    ),
    *_group(
        "asyncio.events",
        "noria.aio.asyncio_base",
        "none: run_forever fails",
        (FUNCTION, "_set_running_loop", "loop", "documented as low-level, for authors of loops"),
    ),
    *_group(
        "asyncio.SelectorEventLoop",
        "noria._core.aio.core",
        "none: debug mode fails",
        (METHOD, "_check_thread", "self", "debug mode: calls from another thread"),
        (
            METHOD,
            "_check_callback",
            "self callback method",
            "debug mode: rejects what cannot be called",
        ),
        (METHOD, "_check_running", "self", "extended: a loop in a fork's child says what is wrong"),
        (
            METHOD,
            "_set_coroutine_origin_tracking",
            "self enabled",
            "set_debug while the loop runs",
        ),
        (FIELD, "_debug", None, "asyncio's methods look at it"),
        (FIELD, "_task_factory", None, "create_task calls it in place of asyncio.Task"),
    ),
    *_group(
        "asyncio.SelectorEventLoop",
        "noria._core.aio.core",
        "none: pipes, signal handlers and debug mode call it by this name",
        (
            HOOK,
            "_add_reader _add_writer",
            "self fd callback context",
            "asyncio's pipes watch their descriptor by it",
        ),
        (OVERRIDDEN, "_remove_reader _remove_writer", "self fd", "asyncio's pipes stop it so"),
        (OVERRIDDEN, "_ensure_fd_no_transport", "self fd", "refuses a transport's descriptor"),
        (OVERRIDDEN, "_add_callback", "self handle", "queues a handle"),
        (OVERRIDDEN, "_add_callback_signalsafe", "self handle", "queues a signal's handle"),
        (OVERRIDDEN, "_timer_handle_cancelled", "self handle", "debug mode's timers call it"),
    ),
    *_group(
        "asyncio.SelectorEventLoop",
        "noria.aio.sendfile",
        "none needed: loop.sendfile calls noria's own method of this name",
        (
            OVERRIDDEN,
            "_sendfile_native",
            "self transp file offset count",
            "tests of programs replace it to have files sent without sendfile(2)",
        ),
    ),
    *_group(
        "asyncio.sslproto._SSLProtocolTransport",
        "noria.aio.sendfile",
        "loop.sendfile raises RuntimeError for asyncio's own transports",
        (FIELD, "_sendfile_compatible", None, "how loop.sendfile treats a transport"),
    ),
    *_group(
        "asyncio.sslproto._SSLProtocolTransport",
        "noria.aio.connections",
        "start_tls raises TypeError for asyncio's own transports",
        (FIELD, "_start_tls_compatible", None, "whether start_tls can use a transport"),
    ),
    *_group(
        "asyncio.transports._FlowControlMixin",
        "noria.aio.connections, noria.aio.sendfile",
        "writing is taken to be not paused",
        (FIELD, "_protocol_paused", None, "whether the transport has paused its protocol"),
    ),
    *_group(
        "asyncio.Server",
        "noria.aio.server",
        "none: a socket with its own recv or send cannot be served",
        (HOOK, "_attach _detach", "self transport", "asyncio's transports of a server call it"),
    ),
    *_group(
        "asyncio.events",
        "noria._core.aio.core",
        "debug mode's handles of call_soon_threadsafe are plain ones, without a lock",
        (
            CLASS,
            "_ThreadSafeHandle",
            "self callback args loop context",
            "what call_soon_threadsafe returns in debug mode",
            {"first": (3, 14)},
        ),
    ),
    *_group(
        "asyncio.SelectorEventLoop",
        "noria._core.aio.core",
        "none: add_reader on such a transport's descriptor is an AttributeError",
        (FIELD, "_transports", None, "asyncio's own transports, for sockets with their own recv"),
    ),
    *_group(
        "asyncio.events",
        "noria._core.timers",
        "handles of call_soon_threadsafe are instances of asyncio.Handle only",
        (
            CLASS,
            "_ThreadSafeHandle",
            "self callback args loop context",
            "the class that isinstance finds",
            {"first": (3, 14)},
        ),
    ),
    *_group(
        "asyncio.Handle",
        "noria._core.aio.core",
        "none: debug mode fails",
        (FIELD, "_source_traceback", None, "debug mode: where a handle was made"),
    ),
    *_group(
        "asyncio.base_events",
        "noria._core.aio.core",
        "messages have the repr of the callback",
        (FUNCTION, "_format_handle", "handle", "names a callback that debug mode found slow"),
    ),
    *_group(
        "asyncio.format_helpers",
        "noria._core.aio.core",
        "messages have the repr of the callback",
        (FUNCTION, "_format_callback_source", "func args", "names a callback that has raised"),
    ),
    *_group(
        "asyncio",
        "noria._core.timers",
        "none: handle._loop fails",
        (FUNCTION, "_get_running_loop", "", "the loop of a handle"),
    ),
    *_group(
        "asyncio",
        "noria.aio.run",
        "none",
        (FUNCTION, "_get_running_loop", "", "documented as low-level, for authors of loops"),
    ),
)


def parameters(function: Any) -> tuple[str, ...] | None:
    """Names of the parameters of a function or class; None if Python does not say."""
    if isinstance(function, type):
        function = function.__init__  # type: ignore[misc]
    code = getattr(function, "__code__", None)
    if code is None:
        return None
    return tuple(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])


def _required(function: Any) -> int:
    """Number of parameters without a default."""
    if isinstance(function, type):
        function = function.__init__  # type: ignore[misc]
    count: int = function.__code__.co_argcount - len(function.__defaults__ or ())
    count += function.__code__.co_kwonlyargcount - len(function.__kwdefaults__ or ())
    return count


def _has_field(owner: Any, name: str) -> bool:
    """Whether instances of the class have the attribute: a method of the class names it."""
    if hasattr(owner, name):
        return True
    for cls in owner.__mro__:
        for value in vars(cls).values():
            code = getattr(value, "__code__", None)
            if code is not None and name in code.co_names:
                return True
    return False


def _foreign(owner: Any) -> set[str]:
    """Private names that the methods of a class use and that are not names of its own."""
    used: set[str] = set()
    for value in vars(owner).values():
        code = getattr(value, "__code__", None)
        if code is not None:
            used.update(name for name in code.co_names if name.startswith("_"))
    return used.difference(dir(owner), owner.__init__.__code__.co_names)


def _find(path: str) -> Any:
    """The module or class with this dotted path; None if there is none."""
    parts = path.split(".")
    try:
        found: Any = importlib.import_module(parts[0])
    except ImportError:
        return None
    for position, part in enumerate(parts[1:], 1):
        if not hasattr(found, part):
            try:
                importlib.import_module(".".join(parts[: position + 1]))
            except ImportError:
                return None
        found = getattr(found, part, None)
    return found


def _difference(entry: PrivateName, version: str) -> str | None:
    """What is unknown about the name on this Python, as a sentence."""
    owner = _find(entry.owner)
    path = f"{entry.owner}.{entry.name}"
    if entry.kind == SLOT:
        return None
    if owner is None:
        return f"{entry.owner} does not exist on Python {version}: noria uses its {entry.name}"
    if entry.kind == FIELD:
        if _has_field(owner, entry.name):
            return None
        return f"{entry.owner} objects have no {entry.name} on Python {version}"
    if entry.kind == PROVIDED:
        more = _foreign(owner).difference(entry.body)
        if not more:
            return None
        return (
            f"{entry.owner} uses {', '.join(sorted(more))} on Python {version}, perhaps of "
            "transports: noria's have no such name"
        )
    value = getattr(owner, entry.name, None)
    if value is None:
        return f"{path} does not exist on Python {version}"
    if entry.parameters is None:
        return None
    there = parameters(value)
    if there is None:
        return None
    expected = entry.parameters
    if entry.kind == OVERRIDDEN:
        fits = there == expected
    elif entry.kind == HOOK:
        fits = there == expected[: len(there)]
    else:
        fits = there[: len(expected)] == expected and _required(value) <= len(expected)
    if not fits:
        return (
            f"{path}({', '.join(there)}) takes other arguments on Python {version}: "
            f"noria expects ({', '.join(expected)})"
        )
    more = set(value.__code__.co_names).difference(entry.body) if entry.body else set()
    if more:
        return (
            f"{path} differs on Python {version} from the one that noria replaces: "
            f"it uses {', '.join(sorted(more))}"
        )
    return None


def unknown(*modules: str) -> list[str]:
    """Compare the table with the running Python and return a sentence for each difference.

    With `modules` (names of noria's modules), only the names that these use.
    """
    version = ".".join(map(str, sys.version_info[:2]))
    sentences = []
    for entry in NAMES:
        if modules and not set(modules).intersection(entry.used_by.split(", ")):
            continue
        if sys.version_info < entry.first or (
            entry.last is not None and sys.version_info[:2] > entry.last
        ):
            continue
        try:
            sentence = _difference(entry, version)
        except Exception as error:  # the name has become something else altogether
            path = f"{entry.owner}.{entry.name}"
            sentence = f"{path} cannot be compared on Python {version}: {error!r}"
        if sentence is not None:
            sentences.append(sentence)
    return sentences


_warned: set[str] = set()


def warn(sentences: list[str], stacklevel: int = 2) -> None:
    """Issue one RuntimeWarning with those of the sentences that were not reported before."""
    new = [sentence for sentence in sentences if sentence not in _warned]
    if not new:
        return
    _warned.update(new)
    warnings.warn(
        "this Python's asyncio differs from those that noria was tested with "
        f"(up to Python {'.'.join(map(str, NEWEST_TESTED))}): {'; '.join(new)}",
        RuntimeWarning,
        stacklevel + 1,
    )
