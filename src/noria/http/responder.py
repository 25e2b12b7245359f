"""Calling the handler and sending its response."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator
from typing import Any

from noria.aio.sendfile import cork, uncork
from noria.http.cycle import RequestResponseCycle
from noria.http.file_body import read_blocks
from noria.http.flow_control import FlowControl
from noria.http.head import BODYLESS_STATUSES, format_head, text_error_response
from noria.http.messages import FileBody, HTTPException, Response
from noria.http.server_state import ServerState

log = logging.getLogger("noria")


class Responder:
    """Answers the requests of one connection, one at a time."""

    __slots__ = ("_flow", "_loop", "_peer", "_state", "_tls", "_transport", "sending_file")

    def __init__(
        self, state: ServerState, transport: Any, flow: FlowControl, peer: str, tls: bool
    ) -> None:
        self._state = state
        self._transport = transport
        self._flow = flow
        self._loop = asyncio.get_running_loop()
        self._peer = peer
        self._tls = tls
        self.sending_file = False

    async def respond(self, cycle: RequestResponseCycle) -> None:
        """Call the handler, send the response, and report it to `ServerState.on_response`."""
        request = cycle.request
        try:
            if cycle.error is not None or request is None:
                raise cycle.error or HTTPException(400, "The request is malformed.")
            response = await self._state.handler(request)
        except HTTPException as error:
            response = text_error_response(error)
        except ConnectionError:
            self._abort()
            return
        except Exception:
            log.exception("%s %s failed", request and request.method, request and request.path)
            response = text_error_response(
                HTTPException(500, "The server failed; the server's log has the cause.")
            )
        sent = 0
        try:
            sent = await self._send(cycle, response)
        finally:
            state = self._state
            state.bytes_sent += sent
            if state.on_response is not None:
                seconds = time.monotonic() - cycle.started
                state.on_response(request, response.status, sent, seconds, self._peer)

    def _abort(self) -> None:
        if not self._flow.closed:
            self._transport.abort()

    def _fields(
        self, cycle: RequestResponseCycle, response: Response, method: str
    ) -> tuple[list[tuple[str, str]], bool]:
        """The fields as they are sent, and whether the body has no Content-Length.

        Sets `cycle.keep_alive` to False if the response is the last one of the connection.
        """
        body, status = response.body, response.status
        fields = [("Date", self._state.date.text()), *response.headers]
        has_length = False
        for name, _ in response.headers:
            if name.lower() == "content-length":
                has_length = True
        without_length = False
        if isinstance(body, (bytes, FileBody)):
            if not has_length and status not in BODYLESS_STATUSES and status >= 200:
                size = len(body) if isinstance(body, bytes) else body.size
                fields.append(("Content-Length", str(size)))
        elif not has_length:
            without_length = True
            if method != "HEAD":
                if cycle.http_1_0:
                    # The end of the connection ends the body (RFC 9112, section 6.3).
                    cycle.keep_alive = False
                else:
                    fields.append(("Transfer-Encoding", "chunked"))
        if (cycle.body is not None and not cycle.body.complete) or self._state.draining:
            cycle.keep_alive = False
        if not cycle.keep_alive:
            fields.append(("Connection", "close"))
        elif cycle.http_1_0:
            fields.append(("Connection", "keep-alive"))
        return fields, without_length

    async def _send(self, cycle: RequestResponseCycle, response: Response) -> int:
        """Send the head and the body; returns the number of bytes of the body that were sent."""
        body, status = response.body, response.status
        method = cycle.request.method if cycle.request is not None else ""
        try:
            fields, without_length = self._fields(cycle, response, method)
            head = format_head(status, fields)
            if self._flow.closed:
                return 0
            if method == "HEAD" or status in BODYLESS_STATUSES:
                self._transport.write(head)
                return 0
            if isinstance(body, bytes):
                self._transport.write(head + body if body else head)
                return len(body)
            if isinstance(body, FileBody):
                return await self._send_file(head, body)
            cycle.streaming = True
            sent = await self._send_stream(head, body, without_length and not cycle.http_1_0)
            if (
                not without_length
                and str(sent) != dict(fields).get("Content-Length")
                and not self._flow.closed
            ):
                log.error(
                    "a response body has %d bytes, which is not its Content-Length: "
                    "the connection is closed",
                    sent,
                )
                self._transport.abort()
            return sent
        finally:
            if isinstance(body, FileBody):
                os.close(body.fd)
            elif not isinstance(body, bytes) and hasattr(body, "aclose"):
                await body.aclose()

    async def _send_file(self, head: bytes, body: FileBody) -> int:
        # A head sent alone makes the kernel's congestion control (BBR) classify the connection as
        # limited by the application, which slows it down.
        sock = self._transport.get_extra_info("socket")
        corked = not self._tls and cork(sock)
        self._transport.write(head)
        if self._transport.is_closing():
            return 0
        sent = 0
        self.sending_file = True
        try:
            if not self._tls:
                with open(body.fd, "rb", buffering=0, closefd=False) as file:
                    sent = await self._loop.sendfile(self._transport, file, body.offset, body.size)
            else:
                async for block in read_blocks(body):
                    await self._flow.write(block)
                    sent += len(block)
        except ConnectionError:
            return sent
        finally:
            self.sending_file = False
            if corked:
                uncork(sock)
        if sent < body.size and not self._flow.closed:
            log.warning("a file became shorter while it was sent: the connection is closed")
            self._transport.abort()
        return sent

    async def _send_stream(self, head: bytes, body: AsyncIterator[bytes], chunked: bool) -> int:
        self._transport.write(head)
        sent = 0
        try:
            async for block in body:
                if block:
                    await self._flow.write(
                        b"%x\r\n%b\r\n" % (len(block), block) if chunked else block
                    )
                    sent += len(block)
        except ConnectionError:
            return sent
        except Exception:
            log.exception("a response body failed before its end: the connection is closed")
            self._abort()
            return sent
        if chunked and not self._flow.closed:
            self._transport.write(b"0\r\n\r\n")
        return sent
