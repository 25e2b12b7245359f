"""One request and its response."""

from __future__ import annotations

import time

from noria.http.messages import HTTPException, Request
from noria.http.request_body import RequestBody


class RequestResponseCycle:
    """The state of a request from its head to the end of its response, as in uvicorn.

    `request` is None if the head could not be parsed; `error` is the response then.
    """

    __slots__ = (
        "body",
        "error",
        "http_1_0",
        "is_counted",
        "keep_alive",
        "rate_sample",
        "request",
        "started",
        "streaming",
    )

    def __init__(
        self, request: Request | None, body: RequestBody | None, error: HTTPException | None
    ) -> None:
        self.request = request
        self.body = body
        self.error = error
        # Whether the connection stays open after the response.
        self.keep_alive = error is None
        self.http_1_0 = False
        # The response is being sent while the handler still produces it.
        self.streaming = False
        self.started = time.monotonic()
        # Whether it counts in `ServerState.active_uploads`.
        self.is_counted = False
        # A time, and the bytes of the body that had arrived by then.
        self.rate_sample = (self.started, 0)
