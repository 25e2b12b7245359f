"""The private names of asyncio that noria uses, as a table. This module imports nothing of noria.

`noria.aio.asyncio_names` compares it with the running Python.
"""

from __future__ import annotations

from typing import Any, NamedTuple

# noria calls it: further optional parameters do no harm.
METHOD = "method"
# asyncio calls it: the parameters have to be equal.
OVERRIDDEN = "overridden method"
# asyncio calls it with these parameters at most.
HOOK = "overridden method with optional parameters"
FIELD = "attribute of instances"
# asyncio's class sets it; never reported as unknown.
SLOT = "slot of noria's loop"
FUNCTION = "function"
# The parameters are those of its constructor.
CLASS = "class"
CONSTANT = "constant"
# asyncio's class uses it.
PROVIDED = "attribute of noria's objects"


class PrivateName(NamedTuple):
    """A name that asyncio does not document, and how noria depends on it."""

    # dotted path of the module or class that has the name
    owner: str
    name: str
    kind: str
    # None if it is not callable
    parameters: tuple[str, ...] | None
    # modules of noria, separated by commas
    used_by: str
    reason: str
    fallback: str
    # If given: all names that the method's code may use. PROVIDED: all private names that the class
    # may use and neither has nor sets in its constructor.
    body: tuple[str, ...] = ()
    # Python versions that have the name
    first: tuple[int, int] = (3, 11)
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
            "extended: buffered data is copied, as the caller may change it",
        ),
        (OVERRIDDEN, "_get_app_transport", "self", "extended: makes noria's transport"),
        (
            OVERRIDDEN,
            "_set_app_protocol",
            "self app_protocol",
            "extended: the protocol's data_received is looked up once",
        ),
        (METHOD, "_do_read__buffered", "self", "reads for a BufferedProtocol"),
        (METHOD, "_do_write", "self", "encrypts buffered data"),
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
            "asyncio's TLS protocol calls it to close the plain transport",
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
        "noria._core.transport",
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
        "noria._core.transport",
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
        (FIELD, "_thread_id", None, "read by is_running and debug mode"),
        (FIELD, "_csock", None, "where the interpreter writes a byte for each signal"),
        (FIELD, "_signal_handlers", None, "while not empty, the wake-up descriptor stays set"),
    ),
    *_group(
        "asyncio.SelectorEventLoop",
        "noria.aio.asyncio_base",
        "none: loop.close() fails, and the repr of asyncio's own transports",
        (FIELD, "_selector", None, "an object with the methods that asyncio calls: close, get_key"),
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
            "_timer_cancelled_count _transports _old_agen_hooks _unix_server_sockets "
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
        "noria._core.aio.scheduler",
        "none: debug mode fails",
        (METHOD, "_check_thread", "self", "debug mode: calls from another thread"),
        (
            METHOD,
            "_check_callback",
            "self callback method",
            "debug mode: rejects what cannot be called",
        ),
        (METHOD, "_check_running", "self", "extended: the error after fork(2) says what is wrong"),
        (
            METHOD,
            "_set_coroutine_origin_tracking",
            "self enabled",
            "set_debug while the loop runs",
        ),
        (FIELD, "_debug", None, "read by asyncio's methods"),
    ),
    *_group(
        "asyncio.SelectorEventLoop",
        "noria._core.aio.core",
        "none: pipes call it by this name",
        (
            HOOK,
            "_add_reader _add_writer",
            "self fd callback context",
            "asyncio's pipes call it to watch a descriptor",
        ),
        (
            OVERRIDDEN,
            "_remove_reader _remove_writer",
            "self fd",
            "asyncio's pipes call it to stop that",
        ),
        (OVERRIDDEN, "_ensure_fd_no_transport", "self fd", "refuses a transport's descriptor"),
    ),
    *_group(
        "asyncio.SelectorEventLoop",
        "noria._core.aio.scheduler",
        "none: signal handlers and debug mode call it by this name",
        (OVERRIDDEN, "_add_callback", "self handle", "queues a handle"),
        (OVERRIDDEN, "_add_callback_signalsafe", "self handle", "queues a signal's handle"),
        (OVERRIDDEN, "_timer_handle_cancelled", "self handle", "debug mode's timers call it"),
    ),
    *_group(
        "asyncio.SelectorEventLoop",
        "noria.aio.loop, noria.aio.sendfile",
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
        "noria assumes that writing is not paused",
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
        "noria._core.aio.scheduler",
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
        "noria._core.aio.scheduler",
        "none: debug mode fails",
        (FIELD, "_source_traceback", None, "debug mode: where a handle was made"),
    ),
    *_group(
        "asyncio.base_events",
        "noria._core.aio.scheduler",
        "messages have the repr of the callback",
        (FUNCTION, "_format_handle", "handle", "names a callback that debug mode found slow"),
    ),
    *_group(
        "asyncio.format_helpers",
        "noria._core.aio.scheduler",
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
        "asyncio.SelectorEventLoop",
        "noria._core.aio.scheduler, noria._core.aio.scheduler_methods",
        "none: task factories have no effect",
        (FIELD, "_task_factory", None, "create_task calls it instead of asyncio.Task"),
    ),
    *_group(
        "asyncio.StreamReader",
        "noria.sight.snapshot_connections",
        "snapshots do not say who reads from a stream, or what it keeps",
        (FIELD, "_buffer _waiter", None, "what a stream keeps, and the future of who reads it"),
    ),
    *_group(
        "asyncio.StreamReaderProtocol",
        "noria.sight.snapshot_connections",
        "snapshots do not say who reads from a stream, or what it keeps",
        (FIELD, "_stream_reader _task", None, "the reader of a connection, and the server's task"),
    ),
    *_group(
        "asyncio.SelectorEventLoop",
        "noria.sight.executors_seen",
        "snapshots do not say how many threads the default executor has",
        (FIELD, "_default_executor", None, "the executor of run_in_executor(None, ...)"),
    ),
    *_group(
        "asyncio.Handle",
        "noria._core.aio.scheduler, noria.sight.program_hooks",
        "records and errors of callbacks in debug mode have no place",
        (FIELD, "_callback", None, "the callback of a handle, to say where it is"),
    ),
    *_group(
        "asyncio",
        "noria.aio.run",
        "none",
        (FUNCTION, "_get_running_loop", "", "documented as low-level, for authors of loops"),
    ),
)
