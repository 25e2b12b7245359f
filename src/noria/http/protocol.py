"""HTTP/1.1 on an asyncio transport (RFC 9112): from bytes to requests and from responses to bytes.

httptools cuts the bytes up. A connection answers one request at a time, in order; a task runs only
while a command has to wait. Nothing here sets a timer: `ServerState.sweep` looks at
all connections once a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import httptools

from noria.aio.sendfile import cork, uncork
from noria.http.body_splice import Mover
from noria.http.file_body import acknowledged, blocks
from noria.http.framing import (
    ChunkedBody,
    check_request_line,
    check_unfinished_line,
    next_piece,
)
from noria.http.head import BODYLESS_STATUSES, build_request, error_response, format_head
from noria.http.messages import FileBody, HTTPException, Request, Response
from noria.http.request_body import RequestBody
from noria.http.server_state import ServerState

log = logging.getLogger("noria")

CHUNK = 32  # bytes that may be around a chunk's content: size, line breaks, a short extension
STRAIGHT = 256 * 1024  # bytes of a body that are worth going by the parser
PROMPT = 1.0  # seconds: a thread that takes longer to move a piece waits for the disk
EAGER = sys.version_info >= (3, 12)  # a task's first step without a turn of the loop


class RequestResponseCycle:
    """A request on its way to its answer. `request` is None where only `problem` can be said."""

    __slots__ = (
        "begun",
        "body",
        "counted",
        "keep",
        "old",
        "problem",
        "request",
        "streaming",
        "window",
    )

    def __init__(
        self, request: Request | None, body: RequestBody | None, problem: HTTPException | None
    ) -> None:
        self.request = request
        self.body = body
        self.problem = problem
        self.keep = problem is None  # whether another request may follow
        self.old = False  # HTTP/1.0
        self.streaming = False  # its answer is being sent, and is made meanwhile
        self.begun = time.monotonic()
        self.counted = False  # among the uploads in flight
        self.window = (self.begun, 0)  # for the rate: since when, bytes until then


class HTTPProtocol(asyncio.Protocol):
    """One client."""

    __slots__ = (
        "blocked",
        "broken",
        "chunked",
        "closed",
        "current",
        "deadline",
        "entered",
        "eof",
        "fed",
        "fields",
        "framing",
        "head_size",
        "in_head",
        "left",
        "lent",
        "line",
        "lingering",
        "loop",
        "muted",
        "out",
        "overhead",
        "parser",
        "paused",
        "peer",
        "pumping",
        "receiving",
        "secure",
        "sending",
        "server_state",
        "tail",
        "task",
        "transport",
        "url",
        "waiting",
    )

    def __init__(self, state: ServerState) -> None:
        self.server_state = state
        self.parser: Any = httptools.HttpRequestParser(self)
        self.transport: Any = None
        self.peer = ""
        self.entered = False  # it counts
        self.secure = False
        self.url = b""
        self.fields: list[tuple[str, str]] = []
        self.line: bytes | None = b""  # of the request line; None once it is complete
        self.tail = b""  # the last three bytes that were parsed
        self.head_size = 0  # of the head that has begun
        self.fed = 0  # bytes that came for it since its first packet
        self.in_head = True
        self.chunked = ChunkedBody()  # where the one that arrives ends
        self.left = 0  # bytes of a body that go by the parser
        self.framing = b""  # of a body that the parser is about to skip
        self.muted = False  # what the parser says is known
        self.overhead = 0  # bytes of a chunked body that are no content, but for CHUNK each
        self.receiving: RequestResponseCycle | None = None  # whose body arrives
        self.waiting: deque[RequestResponseCycle] = deque()
        self.current: RequestResponseCycle | None = None  # which is being answered
        self.task: asyncio.Task[None] | None = None
        self.blocked: asyncio.Future[None] | None = None  # the transport's buffer is full
        self.lent = False  # another receives from the socket
        self.paused = self.broken = self.eof = self.closed = self.lingering = self.sending = False
        self.pumping = False  # it goes on answering in the next turn
        self.out: tuple[float, int] | None = None  # since when, bytes taken by then
        self.deadline = time.monotonic() + state.limits.head_timeout

    # The transport's side.

    def greet(self, transport: Any) -> bool:
        """TLS will be spoken on it first: counted from now on, unless there are too many."""
        self._enter(transport)
        self.server_state.handshakes[self] = transport
        if self._too_many():
            self.server_state.connections_refused += 1
            return False
        return True

    def connection_made(self, transport: Any) -> None:
        state = self.server_state
        self.loop = asyncio.get_running_loop()
        self.transport = transport
        self.secure = transport.get_extra_info("ssl_object") is not None
        self.deadline = time.monotonic() + state.limits.head_timeout
        state.connections.add(self)
        if state.handshakes.pop(self, None) is not None:
            return
        self._enter(transport)
        most = state.limits.max_connections
        if len(state.connections) > most + most // 10 + 16:
            state.connections_refused += 1
            transport.abort()  # so many cannot even be told
        elif why := self._too_many():
            state.connections_refused += 1
            self._broke(HTTPException(503, why, headers=[("Retry-After", "5")]))
            self.pump()

    def _enter(self, transport: Any) -> None:
        name = transport.get_extra_info("peername")
        self.peer = name[0] if isinstance(name, tuple) else ""
        self.entered = True
        self.server_state.connections_accepted += 1
        self.server_state.connections_per_client[self.peer] += 1

    def _too_many(self) -> str:
        """Why this one is more than there may be, or ""."""
        state = self.server_state
        if len(state.connections) + len(state.handshakes) > state.limits.max_connections:
            return "The server has as many connections as it takes."
        if self.peer and state.connections_per_client[self.peer] > state.limits.max_per_client:
            return "This client has as many connections as it may."
        return ""

    def leave(self) -> None:
        """Counted no more."""
        state = self.server_state
        state.connections.discard(self)
        state.handshakes.pop(self, None)
        if self.entered:
            self.entered = False
            state.connections_per_client[self.peer] -= 1
            if state.connections_per_client[self.peer] <= 0:
                del state.connections_per_client[self.peer]

    def connection_lost(self, exc: BaseException | None) -> None:
        self.closed = True
        self.leave()
        gone = ConnectionResetError("the client went away")
        if self.receiving is not None and self.receiving.body is not None:
            self.receiving.body.fail(gone)
        self._received(self.receiving)
        self.waiting.clear()
        if self.blocked is not None and not self.blocked.done():
            self.blocked.set_result(None)
        # What streams an answer may wait for something else than this client (events).
        if self.task is not None and self.current is not None and self.current.streaming:
            self.task.cancel()
        self.parser = None

    def pause_writing(self) -> None:
        if self.blocked is None:
            self.blocked = self.loop.create_future()

    def resume_writing(self) -> None:
        if self.blocked is not None:
            if not self.blocked.done():
                self.blocked.set_result(None)
            self.blocked = None
            if self.waiting and not self.pumping:
                self.pumping = True
                self.loop.call_soon(self._pump_on)

    def eof_received(self) -> bool:
        self.eof = True
        if self.receiving is not None and self.receiving.body is not None:
            self.receiving.body.fail(ConnectionResetError("the body ended too soon"))
            return not self.secure
        # Who has sent a request and closed its sending side still wants the answer.
        return not self.secure and not self.lingering and bool(self.waiting or self.task)

    def data_received(self, data: bytes) -> None:
        self.server_state.bytes_received += len(data)
        if self.broken:
            return  # thrown away until the client has read the answer
        if self.left:
            data = self._straight(data)
            if not data:
                self.pump()
                return
        try:
            self._parse(data)
        except HTTPException as problem:
            self._malformed(problem)
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            if not isinstance(cause, HTTPException):
                raise
            self._broke(cause)
        except httptools.HttpParserInvalidMethodError:
            self._broke(HTTPException(501, "The method of the request is not known here."))
        except httptools.HttpParserError as error:
            self._malformed(HTTPException(400, f"The request is malformed: {error}."))
        else:
            self._go_by()
        self.pump()

    def _parse(self, data: bytes) -> None:
        """Feeds the parser in pieces that end where a head or a body may end.

        So it is known where each request line begins. Raises HTTPException, and what the parser
        raises.
        """
        at = 0
        while at < len(data):
            if self.in_head or self.receiving is None or self.receiving.body is None:
                end = next_piece(self.tail, data, at)
            elif (length := self._missing(self.receiving)) is not None:
                end = min(at + length, len(data))
            else:
                end = self.chunked.find_end(data, at)
            piece = data[at:end] if at or end < len(data) else data
            self.tail = piece[-3:] if len(piece) >= 3 else (self.tail + piece)[-3:]
            if self.in_head:
                self.fed += len(piece)
                if self.line is not None:
                    self.line = check_request_line(self.line, piece)
            else:
                self.overhead += len(piece)
            try:
                self._feed(piece)
            except httptools.HttpParserError:
                if self.line is not None and self.in_head:
                    check_unfinished_line(self.line)
                raise
            # The parser reports a field, a trailer or a chunk extension only at its end.
            if (
                self.fed if self.in_head else self.overhead
            ) > self.server_state.limits.max_head_size:
                raise self._too_large()
            self.overhead = max(self.overhead, 0)  # of the piece that the body began in
            at = end

    def _missing(self, exchange: RequestResponseCycle) -> int | None:
        """Bytes of the body that have not arrived; None if it is chunked."""
        if exchange.request is None or exchange.request.length is None or exchange.body is None:
            return None
        return exchange.request.length - exchange.body.received

    def _malformed(self, problem: HTTPException) -> None:
        """Answers what cannot be parsed, unless it follows the last request of the connection."""
        last = self.waiting[-1] if self.waiting else self.current
        if last is None or last.keep or self.receiving is not None:
            self._broke(problem)

    def _go_by(self) -> None:
        """What is left of a large body whose length is known goes by the parser: it would copy."""
        missing = self._missing(self.receiving) if self.receiving is not None else None
        if missing is not None and missing >= STRAIGHT:
            self.left = missing

    def _straight(self, data: bytes) -> bytes:
        """Takes what is the body's; gives the rest."""
        part = data if len(data) <= self.left else data[: self.left]
        self.left -= len(part)
        self.on_body(part)
        if not self.left:
            self._body_is_over()
        return data[len(part) :]

    # What is left of a large body may be received by another, who puts it where it is to go.

    def _lend_body(self) -> Mover | None:
        if self.left < STRAIGHT or self.broken or self.eof or self.closed or self.current is None:
            return None
        body = self.current.body
        lend = getattr(self.transport, "detach_reading", None)  # other loops have none
        if body is None or self.receiving is not self.current or lend is None or not lend():
            return None
        try:
            mover = Mover(self.transport.get_extra_info("socket").fileno(), body, self)
        except OSError:  # no descriptors are left: it comes as it came so far
            if not self.paused:
                self.transport.resume_reading()
            return None
        self.lent, self.paused = True, False
        return mover

    def moved(self, count: int) -> None:
        """So much of the body has gone its way."""
        self.server_state.bytes_received += count
        self.left -= count
        exchange = self.receiving
        if exchange is None or exchange.body is None:
            return
        exchange.body.received += count
        if not self.left:
            self._body_is_over()

    def lose_track(self) -> None:
        """Where the body ends is not known any more: this request is the last."""
        self.broken = True
        if self.current is not None:
            self.current.keep = False

    def take_back(self) -> None:
        """What comes next is received here."""
        self.lent = False
        if not self.closed:
            if self.receiving is not None and self.receiving.body is not None:
                self.receiving.window = (time.monotonic(), self.receiving.body.received)
            self.transport.resume_reading()

    def _body_is_over(self) -> None:
        self.parser = httptools.HttpRequestParser(self)  # the former waits for the body
        self.on_message_complete()

    def _feed(self, data: bytes | memoryview) -> None:
        """The parser takes an Upgrade for the end of HTTP and skips the body of such a request.

        No other protocol is spoken here, so the field means nothing (RFC 9110, 7.8): the parser is
        told once more how the body is framed, and goes on.
        """
        while True:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                data = memoryview(data)[upgrade.args[0] :]
            framing, self.framing = self.framing, b""
            if framing:
                self.muted = True
                self.parser.feed_data(b"PUT / HTTP/1.1\r\nHost: a\r\n" + framing + b"\r\n\r\n")
                self.muted = False

    def _broke(self, problem: HTTPException) -> None:
        """Nothing can be read any more: the problem is said in its turn, and it ends."""
        self.broken = True
        if self.receiving is not None and self.receiving.body is not None:
            self.receiving.body.fail(problem)
            self.receiving.keep = False
            self._received(self.receiving)
            return
        self.waiting.append(RequestResponseCycle(None, None, problem))

    # The parser's side. What is raised here reaches data_received as HttpParserCallbackError.

    def _grow(self, size: int) -> None:
        self.head_size += size
        if self.head_size > self.server_state.limits.max_head_size:
            raise self._too_large()

    def _too_large(self) -> HTTPException:
        return HTTPException(
            431,
            f"The head of a request has {self.server_state.limits.max_head_size} bytes at most.",
        )

    def on_message_begin(self) -> None:
        if self.muted:
            return
        self.url = b""
        self.fields = []
        self.head_size = 1
        self.fed = 0
        self.in_head = True
        self.deadline = time.monotonic() + self.server_state.limits.head_timeout

    def on_url(self, url: bytes) -> None:
        if self.muted:
            return
        self.url += url
        self._grow(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.muted:
            return
        self._grow(len(name) + len(value) + 4)
        self.fields.append((name.decode("latin-1"), value.decode("latin-1").strip(" \t")))
        if len(self.fields) > self.server_state.limits.max_fields:
            raise HTTPException(
                431, f"A request has {self.server_state.limits.max_fields} fields at most."
            )

    def on_headers_complete(self) -> None:
        if self.muted:
            return
        parser = self.parser
        version = parser.get_http_version()
        request = build_request(
            parser.get_method().decode(),
            self.url,
            version,
            self.fields,
            self.peer,
            self.secure,
            self.server_state.allows_host,
        )
        body = None
        if request.length or (request.length is None and "transfer-encoding" in request.headers):
            body = RequestBody(self._read)
            request.body = body
            self.chunked = ChunkedBody()
            if not self.secure:
                body.lend = self._lend_body
            if version == "1.1" and "expect" in request.headers:
                body.on_start = self._continue
        exchange = RequestResponseCycle(request, body, None)
        exchange.keep = parser.should_keep_alive()
        exchange.old = version == "1.0"
        if body is not None:
            if parser.should_upgrade():
                self.framing = (
                    b"Content-Length: %d" % request.length
                    if request.length
                    else b"Transfer-Encoding: chunked"
                )
            self.receiving = exchange
            if self.server_state.active_uploads >= self.server_state.limits.max_uploads:
                exchange.problem = HTTPException(
                    503, "Too many uploads are under way.", headers=[("Retry-After", "5")]
                )
            else:
                exchange.counted = True
                self.server_state.active_uploads += 1
        self.in_head = False
        self.head_size = self.fed = self.overhead = 0
        self.waiting.append(exchange)

    def on_chunk_header(self) -> None:
        self.overhead -= CHUNK

    def on_body(self, chunk: bytes) -> None:
        self.overhead -= len(chunk)
        body = self.receiving.body if self.receiving is not None else None
        if body is not None:
            body.feed(chunk)
            self._hold()

    def on_message_complete(self) -> None:
        if self.framing:
            return  # its body is still to come
        self.in_head = True
        self.line = self.tail = b""
        self.head_size = self.fed = 0
        self.deadline = time.monotonic() + self.server_state.limits.idle_timeout
        if self.receiving is not None and self.receiving.body is not None:
            self.receiving.body.finish()
            self._received(self.receiving)

    def _received(self, exchange: RequestResponseCycle | None) -> None:
        self.receiving = None
        if exchange is not None and exchange.counted:
            exchange.counted = False
            self.server_state.active_uploads -= 1

    # Back-pressure.

    def _continue(self) -> None:
        if not self.closed and self.current is not None and self.current.body is not None:
            body = self.current.body
            if not body.received and not self.transport.is_closing():
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _read(self) -> None:
        if self.paused:
            self._hold()

    def _hold(self) -> None:
        """Receives no more than can be dealt with."""
        if self.lent:
            return
        limits = self.server_state.limits
        body = self.receiving.body if self.receiving is not None else None
        held = body.held if body is not None and not self.broken else 0
        full = held > limits.max_body_buffer or len(self.waiting) >= limits.max_pipelined
        if full is not self.paused and not self.closed:
            self.paused = full
            if full:
                self.transport.pause_reading()
            else:
                if self.receiving is not None and body is not None:
                    self.receiving.window = (time.monotonic(), body.received)
                self.transport.resume_reading()

    # Answers.

    def pump(self) -> None:
        """Answers what waits, as far as it goes without waiting, and while the client takes it."""
        turns = self.server_state.limits.max_pipelined  # then others have theirs
        while self.waiting and self.task is None and self.blocked is None and not self.closed:
            if not turns:
                if not self.pumping:
                    self.pumping = True
                    self.loop.call_soon(self._pump_on)
                break
            turns -= 1
            exchange = self.waiting.popleft()
            if self._answered_at_once(exchange):
                continue
            self.current = exchange
            answer = self._answer(exchange)
            task: asyncio.Task[None]
            if EAGER:
                task = asyncio.Task(answer, loop=self.loop, eager_start=True)  # type: ignore[call-arg, unused-ignore]
            else:
                task = self.loop.create_task(answer)
            if task.done():
                self._answered(task)
            else:
                self.task = task
                task.add_done_callback(self._went_on)
        self._hold()

    def _answered_at_once(self, exchange: RequestResponseCycle) -> bool:
        """What needs neither a task nor a wait: most of what a file server is asked for."""
        state, request = self.server_state, exchange.request
        if (
            state.fast_path is None
            or request is None
            or not exchange.keep
            or exchange.old
            or exchange.problem is not None
            or exchange.body is not None
            or state.draining
            or (found := state.fast_path(request)) is None
        ):
            return False
        head, body = found
        self.transport.write(b"%bDate: %b\r\n\r\n%b" % (head, state.date.encoded(), body))
        state.bytes_sent += len(body)
        if state.on_response is not None:
            seconds = time.monotonic() - exchange.begun
            state.on_response(request, 200, len(body), seconds, self.peer)
        self.deadline = time.monotonic() + state.limits.idle_timeout
        return True

    def _pump_on(self) -> None:
        self.pumping = False
        self.pump()
        self._end_of_input()

    def _went_on(self, task: asyncio.Task[None]) -> None:
        self._answered(task)
        self.pump()
        self._end_of_input()

    def _end_of_input(self) -> None:
        """Who has closed its sending side and has all answers gets no more."""
        if self.eof and self.task is None and not self.waiting and not self.closed:
            self.transport.close()

    def _answered(self, task: asyncio.Task[None]) -> None:
        self.task = None
        exchange, self.current = self.current, None
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("an answer failed", exc_info=error)
            if not self.closed:
                self.transport.abort()
        if self.closed:
            return
        self.deadline = time.monotonic() + self.server_state.limits.idle_timeout
        if task.cancelled() or exchange is None or not exchange.keep or self.server_state.draining:
            self.waiting.clear()
            self.end_after_answer(exchange)

    def end_after_answer(self, exchange: RequestResponseCycle | None) -> None:
        """Closes so that what was sent arrives: unread bytes would make the kernel send a reset."""
        whole = not self.broken and (exchange is None or exchange.body is None or
                                     exchange.body.whole)  # fmt: skip
        self.broken = True
        if whole or self.eof or self.secure:
            self.transport.close()
            return
        self._received(self.receiving)
        self.lingering = True
        self.deadline = time.monotonic() + self.server_state.limits.linger_timeout
        with contextlib.suppress(OSError):
            self.transport.write_eof()
        if self.paused:
            self.paused = False
            self.transport.resume_reading()

    async def _answer(self, exchange: RequestResponseCycle) -> None:
        request = exchange.request
        try:
            if exchange.problem is not None or request is None:
                raise exchange.problem or HTTPException(400, "The request is malformed.")
            response = await self.server_state.handler(request)
        except HTTPException as problem:
            response = error_response(problem)
        except ConnectionError:
            if not self.closed:
                self.transport.abort()
            return
        except Exception:
            log.exception("%s %s failed", request and request.method, request and request.path)
            response = error_response(HTTPException(500, "The server failed; its log says how."))
        sent = 0
        try:
            sent = await self._send(exchange, response)
        finally:
            self.server_state.bytes_sent += sent
            if self.server_state.on_response is not None:
                seconds = time.monotonic() - exchange.begun
                self.server_state.on_response(request, response.status, sent, seconds, self.peer)

    async def _send(self, exchange: RequestResponseCycle, response: Response) -> int:
        """Returns how many bytes of the body went out."""
        body, status = response.body, response.status
        method = exchange.request.method if exchange.request is not None else ""
        fields = [("Date", self.server_state.date.text()), *response.headers]
        names = {name.lower() for name, _ in response.headers}
        if isinstance(body, (bytes, FileBody)):
            size = len(body) if isinstance(body, bytes) else body.size
            if "content-length" not in names and status not in BODYLESS_STATUSES and status >= 200:
                fields.append(("Content-Length", str(size)))
            chunked = False
        else:
            chunked = "content-length" not in names
        old = exchange.old
        if chunked and not old and method != "HEAD":
            fields.append(("Transfer-Encoding", "chunked"))
        elif chunked and method != "HEAD":
            exchange.keep = False  # in HTTP/1.0 the end of the connection is the end of the body
        if (exchange.body is not None and not exchange.body.whole) or self.server_state.draining:
            exchange.keep = False
        if not exchange.keep:
            fields.append(("Connection", "close"))
        elif old:
            fields.append(("Connection", "keep-alive"))
        try:
            first = format_head(status, fields)
            if self.closed:
                return 0
            if isinstance(body, bytes):
                if method == "HEAD" or status in BODYLESS_STATUSES:
                    body = b""
                self.transport.write(first + body if body else first)
                return len(body)
            if method == "HEAD" or status in BODYLESS_STATUSES:
                self.transport.write(first)
                return 0
            if isinstance(body, FileBody):
                return await self._send_file(first, body)
            exchange.streaming = True
            sent = await self._send_stream(first, body, chunked and not old)
            if not chunked and str(sent) != dict(fields).get("Content-Length") and not self.closed:
                log.error("an answer has %d bytes, and not as many as its head says", sent)
                self.transport.abort()
            return sent
        finally:
            if isinstance(body, FileBody):
                os.close(body.fd)
            elif not isinstance(body, bytes) and hasattr(body, "aclose"):
                await body.aclose()

    async def _send_file(self, first: bytes, body: FileBody) -> int:
        # A head that goes out alone makes the kernel believe that this connection has little to
        # say, and slow (BBR).
        sock = self.transport.get_extra_info("socket")
        corked = not self.secure and cork(sock)
        self.transport.write(first)
        if self.transport.is_closing():
            return 0
        sent = 0
        self.sending = True
        try:
            if not self.secure:
                with open(body.fd, "rb", buffering=0, closefd=False) as file:
                    sent = await self.loop.sendfile(self.transport, file, body.offset, body.size)
            else:
                async for block in blocks(body):
                    await self._write(block)
                    sent += len(block)
        except ConnectionError:
            return sent
        finally:
            self.sending = False
            if corked:
                uncork(sock)
        if sent < body.size and not self.closed:
            log.warning("a file became shorter while it was sent: its connection ends")
            self.transport.abort()
        return sent

    async def _send_stream(self, first: bytes, body: AsyncIterator[bytes], chunked: bool) -> int:
        self.transport.write(first)
        sent = 0
        try:
            async for block in body:
                if block:
                    await self._write(b"%x\r\n%b\r\n" % (len(block), block) if chunked else block)
                    sent += len(block)
        except ConnectionError:
            return sent
        except Exception:
            log.exception("an answer ended in the middle")
            if not self.closed:
                self.transport.abort()
            return sent
        if chunked and not self.closed:
            self.transport.write(b"0\r\n\r\n")
        return sent

    async def _write(self, data: bytes) -> None:
        """Raises ConnectionResetError if the client is gone; waits while it takes nothing."""
        while self.blocked is not None and not self.closed:
            await self.blocked
        if self.closed or self.transport.is_closing():
            raise ConnectionResetError("the client went away")
        self.transport.write(data)

    # What ends a connection from outside.

    def check_timeouts(self, now: float) -> None:
        """Ends what is too slow; called once a second."""
        if self._takes_too_little(now):
            self.abort()
        elif self.lingering or (self.transport.is_closing() and self.task is None):
            if self.lingering and now > self.deadline:
                self.abort()
        elif self.task is not None:
            if self.receiving is not None and self.receiving is self.current and not self.paused:
                self._sends_too_little(self.receiving, now)
        elif now > self.deadline and self.receiving is None and not self.waiting:
            if self.head_size:
                self._broke(HTTPException(408, "The head of the request took too long."))
                self.pump()
            else:
                self.transport.close()

    def _sends_too_little(self, exchange: RequestResponseCycle, now: float) -> None:
        limits, body = self.server_state.limits, exchange.body
        since, before = exchange.window
        if body is None or now - since < limits.rate_window:
            return
        # It is not the client that is waited for.
        ours = body.held or (body.moving and now - body.moving > PROMPT)
        if not ours and body.received - before < limits.min_rate * limits.rate_window:
            self._broke(HTTPException(408, "The body of the request came too slowly."))
        exchange.window = (now, body.received)

    def _takes_too_little(self, now: float) -> bool:
        limits = self.server_state.limits
        if not self.sending and not self.transport.get_write_buffer_size():
            self.out = None
            return False
        taken = acknowledged(self.transport.get_extra_info("socket"))
        if taken is None:
            return False
        if self.out is None:
            self.out = (now, taken)
        elif now - self.out[0] >= limits.rate_window:
            slow = taken - self.out[1] < limits.min_rate * limits.rate_window
            self.out = (now, taken)
            return slow
        return False

    def abort(self) -> None:
        """At once, whatever is under way."""
        self.transport.abort()

    def close_if_idle(self) -> None:
        if self.task is None and not self.waiting and self.receiving is None:
            self.transport.close()
