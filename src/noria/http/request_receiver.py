"""The receiving half of a connection: the queue of its requests, bodies and back-pressure."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import httptools

from noria.http.body_splice import BodySplicer
from noria.http.cycle import RequestResponseCycle
from noria.http.flow_control import FlowControl
from noria.http.messages import HTTPException, Request
from noria.http.request_body import RequestBody
from noria.http.request_parser import RequestParser
from noria.http.server_state import ServerState
from noria.http.timeouts import Timeouts

# From this size on the rest of a body bypasses the parser, which would copy it.
MIN_BYPASS_BYTES = 256 * 1024


class RequestReceiver:
    """Receives requests into `queue`, and at most one body at a time.

    `current` is the cycle that is being answered; the protocol sets it.
    """

    __slots__ = (
        "_flow",
        "_parser",
        "_state",
        "_tls",
        "_transport",
        "closing",
        "current",
        "eof",
        "queue",
        "receiving",
        "remaining",
        "splicing",
    )

    def __init__(
        self,
        state: ServerState,
        transport: Any,
        flow: FlowControl,
        timeouts: Timeouts,
        peer: str,
        tls: bool,
    ) -> None:
        self._state = state
        self._transport = transport
        self._flow = flow
        self._tls = tls
        self._parser = RequestParser(self, state, timeouts, peer, tls)
        self.queue: deque[RequestResponseCycle] = deque()
        self.current: RequestResponseCycle | None = None
        # The cycle whose body is arriving.
        self.receiving: RequestResponseCycle | None = None
        # Bytes of a body that bypass the parser and have not arrived.
        self.remaining = 0
        # What arrives is discarded: no further request is read.
        self.closing = False
        self.eof = False
        # A `BodySplicer` reads from the socket.
        self.splicing = False

    @property
    def head_started(self) -> bool:
        """Whether a part of a head has arrived."""
        return bool(self._parser.head_size)

    def feed(self, data: bytes) -> None:
        """Parse bytes from the transport. A malformed request is answered and is the last."""
        if self.remaining:
            data = self._bypass(data)
            if not data:
                return
        try:
            self._parser.feed(data)
        except HTTPException as error:
            self._reject(error)
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            if not isinstance(cause, HTTPException):
                raise
            self.fail(cause)
        except httptools.HttpParserInvalidMethodError:
            self.fail(HTTPException(501, "The server does not know the request's method."))
        except httptools.HttpParserError as error:
            self._reject(HTTPException(400, f"The request is malformed: {error}."))
        else:
            if self.receiving is not None:
                self._start_bypass(self.receiving)

    def _reject(self, error: HTTPException) -> None:
        """Answer a malformed request, unless it follows the last request of the connection."""
        last = self.queue[-1] if self.queue else self.current
        if last is None or last.keep_alive or self.receiving is not None:
            self.fail(error)

    def fail(self, error: HTTPException) -> None:
        """Read no further request. `error` is the outcome of the present one, in its turn."""
        self.closing = True
        if self.receiving is not None and self.receiving.body is not None:
            self.receiving.body.fail(error)
            self.receiving.keep_alive = False
            self.end_receiving()
            return
        self.queue.append(RequestResponseCycle(None, None, error))

    def fail_body(self, message: str) -> None:
        """The client has closed: the body that is arriving fails with ConnectionResetError."""
        if self.receiving is not None and self.receiving.body is not None:
            self.receiving.body.fail(ConnectionResetError(message))

    def close(self) -> None:
        """The connection is closed."""
        self.fail_body("the client closed the connection")
        self.end_receiving()
        self.queue.clear()
        self._parser.close()

    def end_receiving(self) -> None:
        """The body that was arriving is complete or has failed."""
        cycle, self.receiving = self.receiving, None
        if cycle is not None and cycle.is_counted:
            cycle.is_counted = False
            self._state.active_uploads -= 1

    # Called by the parser.

    def on_request(self, request: Request, version: str, keep_alive: bool) -> RequestBody | None:
        body = None
        if request.length or (request.length is None and "transfer-encoding" in request.headers):
            body = self._make_body(request, version)
        cycle = RequestResponseCycle(request, body, None)
        cycle.keep_alive = keep_alive
        cycle.http_1_0 = version == "1.0"
        if body is not None:
            self.receiving = cycle
            if self._state.active_uploads >= self._state.limits.max_uploads:
                cycle.error = HTTPException(
                    503,
                    "The server receives too many uploads; try again later.",
                    headers=[("Retry-After", "5")],
                )
            else:
                cycle.is_counted = True
                self._state.active_uploads += 1
        self.queue.append(cycle)
        return body

    def _make_body(self, request: Request, version: str) -> RequestBody:
        request.body = body = RequestBody(self._on_read)
        if not self._tls:
            body.start_splice = self._start_splice
        if version == "1.1" and "expect" in request.headers:
            body.on_first_wait = self._send_continue
        return body

    def on_body_chunk(self, chunk: bytes) -> None:
        if self.receiving is not None and self.receiving.body is not None:
            self.receiving.body.feed(chunk)
            self.update_reading()

    def on_body_complete(self) -> None:
        if self.receiving is not None and self.receiving.body is not None:
            self.receiving.body.finish()
            self.end_receiving()

    # Back-pressure.

    def _send_continue(self) -> None:
        """Answer Expect: 100-continue, once the handler waits for the body."""
        if not self._flow.closed and self.current is not None and self.current.body is not None:
            body = self.current.body
            if not body.received and not self._transport.is_closing():
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _on_read(self) -> None:
        if self._flow.read_paused:
            self.update_reading()

    def update_reading(self) -> None:
        """Pause or resume reading, by the bytes and the requests that wait for the handler."""
        if self.splicing:
            return
        limits = self._state.limits
        body = self.receiving.body if self.receiving is not None else None
        unread = body.unread if body is not None and not self.closing else 0
        full = unread > limits.max_body_buffer or len(self.queue) >= limits.max_pipelined
        if full is not self._flow.read_paused and not self._flow.closed:
            if full:
                self._flow.pause_reading()
            else:
                self._restart_rate()
                self._flow.resume_reading()

    def _restart_rate(self) -> None:
        """Measure the client's rate from now on: before, it was not allowed to send."""
        if self.receiving is not None and self.receiving.body is not None:
            self.receiving.rate_sample = (time.monotonic(), self.receiving.body.received)

    # The rest of a large body bypasses the parser, and may be spliced into a file.

    def _start_bypass(self, cycle: RequestResponseCycle) -> None:
        if cycle.request is None or cycle.request.length is None or cycle.body is None:
            return
        missing = cycle.request.length - cycle.body.received
        if missing >= MIN_BYPASS_BYTES:
            self.remaining = missing

    def _bypass(self, data: bytes) -> bytes:
        """Take the bytes of the body; return the others."""
        chunk = data if len(data) <= self.remaining else data[: self.remaining]
        self.remaining -= len(chunk)
        self.on_body_chunk(chunk)
        if not self.remaining:
            self._parser.end_body()
        return data[len(chunk) :]

    def _start_splice(self) -> BodySplicer | None:
        """See `RequestBody.start_splice`."""
        if self.remaining < MIN_BYPASS_BYTES or self.closing or self.eof or self._flow.closed:
            return None
        if self.current is None or self.receiving is not self.current:
            return None
        body = self.current.body
        # Only the transports of noria's loop can hand their socket's input to another reader.
        detach_reading = getattr(self._transport, "detach_reading", None)
        if body is None or detach_reading is None or not detach_reading():
            return None
        try:
            fd = self._transport.get_extra_info("socket").fileno()
            splicer = BodySplicer(fd, body, self)
        except OSError:
            # No descriptors are left: the transport continues to read.
            if not self._flow.read_paused:
                self._transport.resume_reading()
            return None
        self.splicing, self._flow.read_paused = True, False
        return splicer

    def count_spliced(self, count: int) -> None:
        """Account for `count` bytes of the body that were spliced."""
        self._state.bytes_received += count
        self.remaining -= count
        if self.receiving is None or self.receiving.body is None:
            return
        self.receiving.body.received += count
        if not self.remaining:
            self._parser.end_body()

    def disable_keep_alive(self) -> None:
        """Close after this response: it is unknown where the body ends."""
        self.closing = True
        if self.current is not None:
            self.current.keep_alive = False

    def end_splice(self) -> None:
        """Read from the transport again."""
        self.splicing = False
        if not self._flow.closed:
            self._restart_rate()
            self._transport.resume_reading()
