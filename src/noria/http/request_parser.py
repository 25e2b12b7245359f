"""From the bytes of a connection to requests and chunks of bodies (RFC 9112), with httptools.

httptools (llhttp) parses; this adds what it lacks: strict request lines, limits on the sizes of
heads, and requests with an Upgrade field.
"""

from __future__ import annotations

import time
from typing import Any, Protocol

import httptools

from noria.http.framing import (
    ChunkedBody,
    check_request_line,
    check_unfinished_line,
    next_piece,
)
from noria.http.head import build_request
from noria.http.messages import HTTPException, Request
from noria.http.request_body import RequestBody
from noria.http.server_state import ServerState
from noria.http.timeouts import Timeouts

# Bytes around the content of a chunk that are normal: size, line breaks, a short extension.
CHUNK_OVERHEAD = 32


class RequestEvents(Protocol):
    """What `RequestParser` calls."""

    def on_request(self, request: Request, version: str, keep_alive: bool) -> RequestBody | None:
        """A head is complete. Returns where its body goes, or None if it has none."""

    def on_body_chunk(self, chunk: bytes) -> None:
        """A chunk of the body arrived."""

    def on_body_complete(self) -> None:
        """The body is complete."""


class RequestParser:
    """Parses the requests of one connection. `feed` raises HTTPException and httptools' errors.

    httptools calls the methods `on_…`. An exception raised there is the `__context__` of the
    HttpParserCallbackError that `feed` raises.
    """

    __slots__ = (
        "_body",
        "_chunked",
        "_events",
        "_fields",
        "_head_received",
        "_ignore_events",
        "_in_head",
        "_length",
        "_limits",
        "_line",
        "_overhead",
        "_parser",
        "_peer",
        "_state",
        "_tail",
        "_timeouts",
        "_tls",
        "_upgrade_framing",
        "_url",
        "head_size",
    )

    def __init__(
        self, events: RequestEvents, state: ServerState, timeouts: Timeouts, peer: str, tls: bool
    ) -> None:
        self._events = events
        self._state = state
        self._limits = state.limits
        self._timeouts = timeouts
        self._peer = peer
        self._tls = tls
        self._parser: Any = httptools.HttpRequestParser(self)
        self._url = b""
        self._fields: list[tuple[str, str]] = []
        # The request line so far; None once it is complete.
        self._line: bytes | None = b""
        # The last three bytes that were parsed.
        self._tail = b""
        # Bytes of the current head that the parser has reported. 0 between requests.
        self.head_size = 0
        # Bytes that arrived for the current head; they include what the parser has not reported.
        self._head_received = 0
        self._in_head = True
        # The body that is being parsed, its Content-Length (None if chunked), and the end of a
        # chunked one.
        self._body: RequestBody | None = None
        self._length: int | None = None
        self._chunked = ChunkedBody()
        # Bytes of a chunked body that are not content, less CHUNK_OVERHEAD for each chunk.
        self._overhead = 0
        # A field that repeats the framing of a body that the parser is about to skip.
        self._upgrade_framing = b""
        self._ignore_events = False

    def close(self) -> None:
        """Break the reference cycles with the httptools parser and with the receiver of events."""
        self._parser = None
        del self._events

    def feed(self, data: bytes) -> None:
        """Parse `data` in pieces that end where a head or a body may end.

        So each request line is known to begin at the begin of a piece.
        """
        at = 0
        while at < len(data):
            if self._in_head or self._body is None:
                end = next_piece(self._tail, data, at)
            elif self._length is not None:
                end = min(at + self._length - self._body.received, len(data))
            else:
                end = self._chunked.find_end(data, at)
            piece = data[at:end] if at or end < len(data) else data
            self._tail = piece[-3:] if len(piece) >= 3 else (self._tail + piece)[-3:]
            if self._in_head:
                self._head_received += len(piece)
                if self._line is not None:
                    self._line = check_request_line(self._line, piece)
            else:
                self._overhead += len(piece)
            try:
                self._feed(piece)
            except httptools.HttpParserError:
                if self._line is not None and self._in_head:
                    check_unfinished_line(self._line)
                raise
            # The parser reports a field, a trailer or a chunk extension only at its end.
            unreported = self._head_received if self._in_head else self._overhead
            if unreported > self._limits.max_head_size:
                raise self._head_too_large()
            # A piece that ends the head may begin the body: its bytes are not overhead.
            self._overhead = max(self._overhead, 0)
            at = end

    def _feed(self, data: bytes | memoryview) -> None:
        """Feed httptools, and continue after a request with an Upgrade field.

        No other protocol is spoken here, so Upgrade is ignored (RFC 9110, section 7.8). httptools
        treats it as the end of HTTP and skips the body of such a request, so it is fed the framing
        of the body once more, in a made-up request whose events are ignored.
        """
        while True:
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                data = memoryview(data)[upgrade.args[0] :]
            framing, self._upgrade_framing = self._upgrade_framing, b""
            if framing:
                self._ignore_events = True
                self._parser.feed_data(b"PUT / HTTP/1.1\r\nHost: a\r\n" + framing + b"\r\n\r\n")
                self._ignore_events = False

    def end_body(self) -> None:
        """End a body whose last bytes did not pass through the parser."""
        # The present httptools parser still expects these bytes.
        self._parser = httptools.HttpRequestParser(self)
        self.on_message_complete()

    def _head_too_large(self) -> HTTPException:
        return HTTPException(
            431, f"The head of a request must not exceed {self._limits.max_head_size} bytes."
        )

    def on_message_begin(self) -> None:
        if self._ignore_events:
            return
        self._url = b""
        self._fields = []
        self.head_size = 1
        self._head_received = 0
        self._in_head = True
        self._timeouts.deadline = time.monotonic() + self._limits.head_timeout

    def on_url(self, url: bytes) -> None:
        if self._ignore_events:
            return
        self._url += url
        self.head_size += len(url)
        if self.head_size > self._limits.max_head_size:
            raise self._head_too_large()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._ignore_events:
            return
        limits = self._limits
        self.head_size += len(name) + len(value) + 4
        if self.head_size > limits.max_head_size:
            raise self._head_too_large()
        fields = self._fields
        fields.append((name.decode("latin-1"), value.decode("latin-1").strip(" \t")))
        if len(fields) > limits.max_fields:
            raise HTTPException(
                431, f"A request must not have more than {limits.max_fields} fields."
            )

    def on_headers_complete(self) -> None:
        if self._ignore_events:
            return
        parser = self._parser
        version = parser.get_http_version()
        request = build_request(
            parser.get_method().decode(),
            self._url,
            version,
            self._fields,
            self._peer,
            self._tls,
            self._state.check_host,
        )
        body = self._events.on_request(request, version, parser.should_keep_alive())
        if body is not None:
            self._body = body
            self._length = request.length
            if request.length is None:
                self._chunked = ChunkedBody()
            if parser.should_upgrade():
                self._upgrade_framing = (
                    b"Content-Length: %d" % request.length
                    if request.length
                    else b"Transfer-Encoding: chunked"
                )
        self._in_head = False
        self.head_size = self._head_received = self._overhead = 0

    def on_chunk_header(self) -> None:
        self._overhead -= CHUNK_OVERHEAD

    def on_body(self, chunk: bytes) -> None:
        self._overhead -= len(chunk)
        self._events.on_body_chunk(chunk)

    def on_message_complete(self) -> None:
        if self._upgrade_framing:
            return  # its body follows
        self._in_head = True
        self._line = self._tail = b""
        self.head_size = self._head_received = 0
        self._timeouts.deadline = time.monotonic() + self._limits.idle_timeout
        if self._body is not None:
            self._body = None
            self._events.on_body_complete()
