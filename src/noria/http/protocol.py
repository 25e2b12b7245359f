"""HTTP/1.1 on an asyncio transport (RFC 9112).

A connection answers its requests one at a time, in their order. A task exists only while a handler
waits. No connection sets a timer: `ServerState.sweep` checks all of them once a second.

    transport ─▶ HTTPProtocol ─▶ RequestReceiver ─▶ RequestParser ─▶ httptools
                      │                 ▼ queue of RequestResponseCycle
                      └───────▶ fast path, or Responder ─▶ handler ─▶ transport
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from typing import Any

from noria.http.cycle import RequestResponseCycle
from noria.http.flow_control import FlowControl
from noria.http.messages import HTTPException
from noria.http.request_receiver import RequestReceiver
from noria.http.responder import Responder
from noria.http.server_state import ServerState
from noria.http.timeouts import Timeouts

log = logging.getLogger("noria")

# Whether the first step of a task can run without a turn of the loop.
EAGER_TASKS = sys.version_info >= (3, 12)


class HTTPProtocol(asyncio.Protocol):
    """The protocol of one connection."""

    __slots__ = (
        "_counted",
        "_lingering",
        "_loop",
        "_peer",
        "_responder",
        "_resume_scheduled",
        "_timeouts",
        "_tls",
        "closed",
        "flow",
        "receiver",
        "server_state",
        "task",
        "transport",
    )

    receiver: RequestReceiver
    flow: FlowControl
    _responder: Responder
    _timeouts: Timeouts

    def __init__(self, state: ServerState) -> None:
        self.server_state = state
        self.transport: Any = None
        self.closed = False
        # The handler that waits, if one does.
        self.task: asyncio.Task[None] | None = None
        self._peer = ""
        self._tls = False
        # Whether it counts in `ServerState.connections_per_client`.
        self._counted = False
        # The last response is sent, and what still arrives is discarded.
        self._lingering = False
        self._resume_scheduled = False

    # Connecting and closing.

    def handshake_started(self, transport: Any) -> bool:
        """Count a connection whose TLS handshake begins. Returns False above a limit."""
        self._count(transport)
        self.server_state.handshakes[self] = transport
        if self._limit_exceeded():
            self.server_state.connections_refused += 1
            return False
        return True

    def connection_made(self, transport: Any) -> None:
        state = self.server_state
        self._loop = asyncio.get_running_loop()
        self.transport = transport
        self._tls = transport.get_extra_info("ssl_object") is not None
        state.connections.add(self)
        counted = state.handshakes.pop(self, None) is not None
        if not counted:
            self._count(transport)
        flow = self.flow = FlowControl(transport, self._loop)
        timeouts = self._timeouts = Timeouts(state.limits)
        self.receiver = RequestReceiver(state, transport, flow, timeouts, self._peer, self._tls)
        self._responder = Responder(state, transport, flow, self._peer, self._tls)
        if counted:
            return
        limit = state.limits.max_connections
        if len(state.connections) > limit + limit // 10 + 16:
            # Even a response with 503 would cost too much.
            state.connections_refused += 1
            transport.abort()
        elif message := self._limit_exceeded():
            state.connections_refused += 1
            self.receiver.fail(HTTPException(503, message, headers=[("Retry-After", "5")]))
            self._answer_requests()

    def _count(self, transport: Any) -> None:
        address = transport.get_extra_info("peername")
        self._peer = address[0] if isinstance(address, tuple) else ""
        self._counted = True
        self.server_state.connections_accepted += 1
        self.server_state.connections_per_client[self._peer] += 1

    def _limit_exceeded(self) -> str:
        """The message to the client if there are too many connections, else ""."""
        state = self.server_state
        if len(state.connections) + len(state.handshakes) > state.limits.max_connections:
            return "The server has too many connections; try again later."
        if self._peer and state.connections_per_client[self._peer] > state.limits.max_per_client:
            return "This client has too many connections; close some of them."
        return ""

    def forget(self) -> None:
        """Remove the connection from the counts."""
        state = self.server_state
        state.connections.discard(self)
        state.handshakes.pop(self, None)
        if self._counted:
            self._counted = False
            state.connections_per_client[self._peer] -= 1
            if state.connections_per_client[self._peer] <= 0:
                del state.connections_per_client[self._peer]

    def connection_lost(self, exc: BaseException | None) -> None:
        self.closed = True
        self.forget()
        self.receiver.close()
        self.flow.close()
        # A handler that streams may wait for something other than the client, such as events.
        current = self.receiver.current
        if self.task is not None and current is not None and current.streaming:
            self.task.cancel()

    def abort(self) -> None:
        """Close at once, also while a request is being answered."""
        self.transport.abort()

    def close_if_idle(self) -> None:
        """Close unless a request is being received or answered."""
        receiver = self.receiver
        if self.task is None and not receiver.queue and receiver.receiving is None:
            self.transport.close()

    # Receiving.

    def data_received(self, data: bytes) -> None:
        self.server_state.bytes_received += len(data)
        # While lingering, what arrives is discarded until the client has read the response.
        if not self.receiver.closing:
            self.receiver.feed(data)
            self._answer_requests()

    def eof_received(self) -> bool:
        receiver = self.receiver
        receiver.eof = True
        if receiver.receiving is not None and receiver.receiving.body is not None:
            receiver.fail_body("the client closed before the body's end")
            return not self._tls
        # A client may close its sending side after a request and still read the response.
        return not self._tls and not self._lingering and bool(receiver.queue or self.task)

    # Flow control.

    def pause_writing(self) -> None:
        self.flow.pause_writing()

    def resume_writing(self) -> None:
        if self.flow.writable is not None:
            self.flow.resume_writing()
            if self.receiver.queue:
                self._schedule_resume()

    def _schedule_resume(self) -> None:
        if not self._resume_scheduled:
            self._resume_scheduled = True
            self._loop.call_soon(self._resume)

    def _resume(self) -> None:
        self._resume_scheduled = False
        self._answer_requests()
        self._close_after_eof()

    # Responding.

    def _answer_requests(self) -> None:
        """Answer the queued requests until a handler waits or the client accepts no more."""
        queue, flow = self.receiver.queue, self.flow
        # After as many requests other connections have their turn.
        turns = self.server_state.limits.max_pipelined
        while queue and self.task is None and flow.writable is None and not self.closed:
            if not turns:
                self._schedule_resume()
                break
            turns -= 1
            cycle = queue.popleft()
            if self._try_fast_path(cycle):
                continue
            self.receiver.current = cycle
            coroutine = self._responder.respond(cycle)
            task: asyncio.Task[None]
            if EAGER_TASKS:
                task = asyncio.Task(coroutine, loop=self._loop, eager_start=True)  # type: ignore[call-arg, unused-ignore]
            else:
                task = self._loop.create_task(coroutine)
            if task.done():
                self._on_response_end(task)
            else:
                self.task = task
                task.add_done_callback(self._on_task_done)
        receiver = self.receiver
        if receiver.receiving is not None or queue or flow.read_paused:
            receiver.update_reading()

    def _try_fast_path(self, cycle: RequestResponseCycle) -> bool:
        """Answer without a task if `ServerState.fast_path` can."""
        state, request = self.server_state, cycle.request
        if (
            state.fast_path is None
            or request is None
            or not cycle.keep_alive
            or cycle.http_1_0
            or cycle.error is not None
            or cycle.body is not None
            or state.draining
            or (answer := state.fast_path(request)) is None
        ):
            return False
        head, body = answer
        self.transport.write(b"%bDate: %b\r\n\r\n%b" % (head, state.date.encoded(), body))
        state.bytes_sent += len(body)
        if state.on_response is not None:
            seconds = time.monotonic() - cycle.started
            state.on_response(request, 200, len(body), seconds, self._peer)
        self._timeouts.deadline = time.monotonic() + state.limits.idle_timeout
        return True

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        self._on_response_end(task)
        self._answer_requests()
        self._close_after_eof()

    def _on_response_end(self, task: asyncio.Task[None]) -> None:
        self.task = None
        cycle, self.receiver.current = self.receiver.current, None
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("sending a response failed: the connection is closed", exc_info=error)
            if not self.closed:
                self.transport.abort()
        if self.closed:
            return
        self._timeouts.deadline = time.monotonic() + self.server_state.limits.idle_timeout
        if task.cancelled() or cycle is None or not cycle.keep_alive or self.server_state.draining:
            self.receiver.queue.clear()
            self._close_after_response(cycle)

    def _close_after_eof(self) -> None:
        """Close if the client has closed its sending side and has all responses."""
        receiver = self.receiver
        if receiver.eof and self.task is None and not receiver.queue and not self.closed:
            self.transport.close()

    def _close_after_response(self, cycle: RequestResponseCycle | None) -> None:
        """Close so that the client receives the response (RFC 9112, section 9.6).

        If bytes are unread when a socket is closed, the kernel sends a reset, and the client may
        lose the response. So what still arrives is discarded first, for `linger_timeout` at most.
        """
        receiver = self.receiver
        received_all = not receiver.closing and (
            cycle is None or cycle.body is None or cycle.body.complete
        )
        receiver.closing = True
        if received_all or receiver.eof or self._tls:
            self.transport.close()
            return
        receiver.end_receiving()
        self._lingering = True
        self._timeouts.deadline = time.monotonic() + self.server_state.limits.linger_timeout
        with contextlib.suppress(OSError):
            self.transport.write_eof()
        if self.flow.read_paused:
            self.flow.resume_reading()

    # Timeouts.

    def check_timeouts(self, now: float) -> None:
        """Close if the client is too slow. `now` is time.monotonic(); called once a second."""
        receiver, timeouts = self.receiver, self._timeouts
        if timeouts.accepts_too_slowly(self.transport, self._responder.sending_file, now):
            self.abort()
        elif self._lingering or (self.transport.is_closing() and self.task is None):
            if self._lingering and now > timeouts.deadline:
                self.abort()
        elif self.task is not None:
            receiving = receiver.receiving
            if (
                receiving is not None
                and receiving is receiver.current
                and not self.flow.read_paused
                and timeouts.sends_too_slowly(receiving, now)
            ):
                receiver.fail(HTTPException(408, "The body of the request arrived too slowly."))
        elif now > timeouts.deadline and receiver.receiving is None and not receiver.queue:
            if receiver.head_started:
                receiver.fail(HTTPException(408, "The head of the request took too long."))
                self._answer_requests()
            else:
                self.transport.close()
