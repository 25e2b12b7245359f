"""State that the connections of one server process share: handler, limits, counts, draining."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from noria.http.head import DateField
from noria.http.limits import Limits
from noria.http.messages import Request, Response

Handler = Callable[[Request], Awaitable[Response]]
# Answers a request that needs no wait: the head without Date and its final line, and the body.
# Returns None where `Handler` is to answer.
FastPath = Callable[[Request], tuple[bytes, bytes] | None]
# Called after each response: the request (None if malformed), the status, the bytes of the body
# that were sent, the seconds since the request's head was complete, the client's address.
OnResponse = Callable[[Request | None, int, int, float, str], object]

SWEEP_INTERVAL = 1.0  # seconds
MAX_CHECKS_PER_TURN = 128  # connections checked in one turn of the loop


class ServedConnection(Protocol):
    """What `ServerState` needs of a connection."""

    closed: bool

    def check_timeouts(self, now: float) -> None: ...
    def close_if_idle(self) -> None: ...
    def abort(self) -> None: ...


class ServerState:
    """The state of one server process, as in uvicorn.

    `handler` answers requests. `fast_path`, if given, is called before it. `on_response` is called
    after each response. `check_host`, if set, is called with the host of each request
    and raises HTTPException 421 if the server does not serve that name.
    """

    def __init__(
        self,
        handler: Handler,
        limits: Limits | None = None,
        on_response: OnResponse | None = None,
        fast_path: FastPath | None = None,
    ) -> None:
        self.handler = handler
        self.fast_path = fast_path
        self.check_host: Callable[[str], object] | None = None
        self.limits = limits or Limits()
        self.on_response = on_response
        self.connections: set[ServedConnection] = set()
        # Connections whose TLS handshake is under way, and the TCP transport of each.
        self.handshakes: dict[ServedConnection, Any] = {}
        self.connections_per_client: Counter[str] = Counter()
        self.active_uploads = 0
        self.connections_accepted = 0
        self.connections_refused = 0
        self.bytes_received = 0
        self.bytes_sent = 0
        self.draining = False
        self.date = DateField()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start the timer that checks all connections for slow clients, on the running loop."""
        self._timer = asyncio.get_running_loop().call_later(SWEEP_INTERVAL, self.sweep)

    def stop(self) -> None:
        """Cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def sweep(self) -> None:
        """Check the timeouts of all connections, and schedule the next sweep."""
        self.start()
        self._check_timeouts(list(self.connections))

    def _check_timeouts(self, unchecked: list[ServedConnection]) -> None:
        """Check a few connections and leave the others to later turns of the loop."""
        now = time.monotonic()
        for connection in unchecked[-MAX_CHECKS_PER_TURN:]:
            if not connection.closed:
                connection.check_timeouts(now)
        del unchecked[-MAX_CHECKS_PER_TURN:]
        if unchecked:
            asyncio.get_running_loop().call_soon(self._check_timeouts, unchecked)

    async def drain(self, grace: float) -> int:
        """Close idle connections now, and each other one after its response.

        Connections that are still open after `grace` seconds are aborted; returns their number.
        """
        self.draining = True
        until = time.monotonic() + grace
        for transport in list(self.handshakes.values()):
            transport.abort()
        for connection in list(self.connections):
            connection.close_if_idle()
        while self.connections and time.monotonic() < until:
            await asyncio.sleep(0.02)
        unfinished = list(self.connections)
        for connection in unfinished:
            connection.abort()
        while self.connections or self.handshakes:
            await asyncio.sleep(0.005)
        return len(unfinished)
