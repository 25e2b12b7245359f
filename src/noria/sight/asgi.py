"""An ASGI application with the metrics: ``app.mount("/metrics", metrics_app())``."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import TYPE_CHECKING, Any, TypeVar

from noria.sight import lifetime
from noria.sight.metrics.collector import LoopCollector
from noria.sight.metrics.exposition import write
from noria.sight.metrics.processes import supervisor_of
from noria.sight.settings import Settings

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Result = TypeVar("Result")


def metrics_app(registry: CollectorRegistry | None = None) -> MetricsApp:
    """Return an ASGI application that responds with the metrics of this program's loops.

    From now on this process is watched, as by noria.watch(). Several workers of one server (uvicorn
    --workers, gunicorn) are shown by any of them, each with its process id as the label "worker",
    if each of them makes the application.

    `registry` is a registry of prometheus_client whose metrics are added to those of the loops:
    prometheus_client.REGISTRY has a program's own.

    Raises ModuleNotFoundError without prometheus_client, OSError if the process cannot be watched.
    """
    return MetricsApp(registry)


class MetricsApp:
    """An ASGI application that responds to GET and HEAD, at any path."""

    def __init__(self, registry: CollectorRegistry | None) -> None:
        self._registry = registry
        self._lock = threading.Lock()
        self._pid = 0
        self._collector: LoopCollector
        self._start()

    def close(self) -> None:
        """Stop watching. Servers need not call it: it happens at exit."""
        with self._lock:
            if self._pid == os.getpid():
                self._collector.close()
                lifetime.release()
            self._pid = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Handle one connection (https://asgi.readthedocs.io/en/latest/specs/www.html)."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})
        elif scope["method"] not in ("GET", "HEAD"):
            headers = [(b"allow", b"GET, HEAD")]
            await _respond(send, scope, 405, b"use GET\n", "text/plain", headers)
        else:
            accept = [value for name, value in scope["headers"] if name.lower() == b"accept"]
            text = b",".join(accept).decode("latin-1")
            # In a thread: other workers may take a moment to answer.
            body, content_type = await _in_thread(lambda: self._write(text))
            await _respond(send, scope, 200, body, content_type, [(b"vary", b"Accept")])

    def collect(self) -> Iterator[Metric]:
        """Return the families of the loops and of the registry."""
        yield from self._collector.collect()
        if self._registry is not None:
            yield from self._registry.collect()

    def _start(self) -> None:
        agent = lifetime.acquire(Settings(report_blocks=False))
        self._collector = LoopCollector(agent, ancestor=supervisor_of(os.getpid()))
        self._pid = os.getpid()

    def _write(self, accept: str) -> tuple[bytes, str]:
        with self._lock:
            # Another process: a server forked after it had imported the application.
            if self._pid != os.getpid():
                self._start()
        return write(self, accept)


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        kind = (await receive())["type"].removeprefix("lifespan.")
        await send({"type": f"lifespan.{kind}.complete"})
        if kind == "shutdown":
            return


async def _in_thread(function: Callable[[], Result]) -> Result:
    """Call a function in a new thread: the executor may be full, which these metrics show."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Result] = loop.create_future()

    def call() -> None:
        report: tuple[Callable[[Any], None], Any]
        try:
            report = done.set_result, function()
        except BaseException as error:
            report = done.set_exception, error
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(_unless_done, done, *report)

    threading.Thread(target=call, name="noria-metrics-scrape", daemon=True).start()
    return await done


def _unless_done(done: asyncio.Future[Any], report: Callable[[Any], None], value: object) -> None:
    if not done.done():  # the request may be cancelled
        report(value)


async def _respond(
    send: Send,
    scope: Message,
    status: int,
    body: bytes,
    content_type: str,
    headers: list[tuple[bytes, bytes]],
) -> None:
    headers += [
        (b"content-type", content_type.encode()),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    body = b"" if scope["method"] == "HEAD" else body
    await send({"type": "http.response.body", "body": body})
