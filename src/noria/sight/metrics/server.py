"""The metrics server: GET /metrics in threads of its own, so that a blocked loop is seen too."""

from __future__ import annotations

import contextlib
import http.server
import os
import socket
import socketserver
import threading
import weakref
from typing import TYPE_CHECKING, Any

from noria._version import __version__
from noria.errors import os_error_reason
from noria.net.listening import describe
from noria.sight.metrics.collector import LoopCollector
from noria.sight.metrics.exposition import write

if TYPE_CHECKING:
    from noria.sight.agent import Agent

MAX_CONNECTIONS = 32  # each has a thread; more are closed at once
IDLE_TIMEOUT = 10.0  # seconds until a connection that sends no request is closed

PAGE = b"""<!doctype html><meta charset="utf-8"><title>noria</title>
<p>The metrics of this program's event loops are at <a href="/metrics">/metrics</a>.
"""


def serve_metrics(agent: Agent, host: str = "127.0.0.1", port: int = 0) -> MetricsServer:
    """Serve the metrics of this process and its workers at http://HOST:PORT/metrics.

    `port` 0 takes any free port. Worker processes, watched ones that descend from this process, are
    shown too, each with its process id as the label "worker".

    Raises OSError that names the address. `MetricsServer.close` ends it.
    """
    return MetricsServer(agent, host, port)


def check_address(host: str, port: int) -> None:
    """Raise OSError that names the address if no server can listen there."""
    _listen(host, port).server_close()


class MetricsServer:
    """Serves metrics until `close`. `address` is "HOST:PORT"."""

    def __init__(self, agent: Agent, host: str, port: int) -> None:
        self._server = _listen(host, port)
        name: Any = self._server.socket.getsockname()
        self.address = describe(self._server.address_family, name)
        self.collector = LoopCollector(agent)
        self._server.collector = self.collector
        self._agent = agent
        agent.private_fds.append(self._server.descriptors)
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.1},
            name="noria-metrics-server",
            daemon=True,
        )
        self._thread.start()
        _servers.add(self)

    def close(self) -> None:
        """Stop serving, and end all threads and connections of the server."""
        _servers.discard(self)
        self._server.shutdown()
        self._thread.join()
        self._server.disconnect_all()
        self._server.server_close()
        self.collector.close()
        self._agent.private_fds.remove(self._server.descriptors)

    def abandon(self) -> None:
        """In the child of a fork: close the descriptors. The threads exist in the parent only."""
        self._server.socket.close()
        for sock in list(self._server.connections):
            sock.close()


_servers: weakref.WeakSet[MetricsServer] = weakref.WeakSet()


def _after_fork() -> None:
    for server in list(_servers):
        server.abandon()
    _servers.clear()


os.register_at_fork(after_in_child=_after_fork)


def _listen(host: str, port: int) -> _Server:
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host.strip("[]") or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return _Server(family, address)
    except OSError as error:
        error.strerror = f"cannot serve metrics on {host}:{port}: {os_error_reason(error)}"
        raise


class _Server(http.server.HTTPServer):
    request_queue_size = 16
    collector: LoopCollector

    def __init__(self, family: int, address: Any) -> None:
        self.address_family = socket.AddressFamily(family)
        self.connections: dict[socket.socket, threading.Thread] = {}
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # HTTPServer's looks the host's name up, which may take seconds.
        socketserver.TCPServer.server_bind(self)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        return len(self.connections) < MAX_CONNECTIONS

    def process_request(self, request: Any, client_address: Any) -> None:
        thread = threading.Thread(
            target=self._serve_connection,
            args=(request, client_address),
            name="noria-metrics-connection",
            daemon=True,
        )
        self.connections[request] = thread
        thread.start()

    def _serve_connection(self, request: Any, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except OSError:  # the client has reset the connection
            pass
        except Exception:
            self.handle_error(request, client_address)
        finally:
            self.shutdown_request(request)
            self.connections.pop(request, None)

    def descriptors(self) -> set[int]:
        """Return the descriptors of the listening socket and of the connections."""
        return {self.socket.fileno(), *(sock.fileno() for sock in list(self.connections))}

    def disconnect_all(self) -> None:
        """Shut all connections down, and wait for their threads."""
        for sock, thread in list(self.connections.items()):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    timeout = IDLE_TIMEOUT
    protocol_version = "HTTP/1.1"
    server_version = f"noria/{__version__}"
    sys_version = ""
    server: _Server

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            # Several Accept headers mean the same as one with all their values (RFC 9110, 5.3).
            accept = ",".join(self.headers.get_all("Accept", []))
            body, content_type = write(self.server.collector, accept)
            self._respond(200, body, content_type)
        elif path == "/":
            self._respond(200, PAGE, "text/html; charset=utf-8")
        else:
            self._respond(404, b"not found: the metrics are at /metrics\n", "text/plain")

    do_HEAD = do_GET

    def _respond(self, status: int, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Vary", "Accept")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: scrapes come all the time."""
