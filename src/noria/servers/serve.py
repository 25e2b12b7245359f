"""noria.serve: serve an asyncio protocol on a port until a signal stops the server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from noria.servers.config import OnConnection, OnReady, ServeConfig, ServerInfo, Summary
from noria.servers.server import run_server

__all__ = ["ServerInfo", "Summary", "serve"]


def serve(
    protocol_factory: Callable[[], asyncio.BaseProtocol],
    host: str | None = "127.0.0.1",
    port: int = 0,
    *,
    unix: str | None = None,
    model: str = "auto",
    interval: float = 0.001,
    workers: int = 1,
    grace: float = 30.0,
    backlog: int = 1024,
    ready: OnReady | None = None,
    on_connection: OnConnection | None = None,
) -> Summary:
    """Serve an asyncio.Protocol class until SIGINT, SIGTERM or SIGHUP; return the totals.

    Arguments:

    - `host`: a name or an address; None is every address of this machine. `port`: 0 takes a free
      one. `unix`: the path of a Unix socket, in place of both.
    - `model` and `interval`: as for Reactor.
    - `workers`: the number of processes that share the port (SO_REUSEPORT). One that dies is
      restarted.
    - `grace`: after SIGTERM, seconds that open connections have to finish.
    - `ready`: called once with a ServerInfo when the server accepts connections.
    - `on_connection`: called when a connection opens and when it closes.

    SIGTERM stops accepting and lets open connections finish; SIGINT, or a second SIGTERM, closes
    them at once. SIGHUP, which a closed terminal sends, acts like SIGTERM unless it is ignored
    (nohup(1)) or the program has its own handler. Outside the main thread no signal is handled:
    ``ServerInfo.stop`` stops the server.

    Raises OSError that names the address, ModelUnavailable, UnknownModel, Unsupported, ModelLimit.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, not {workers}")
    if grace < 0:
        raise ValueError(f"grace must be 0 or more seconds, not {grace}")
    config = ServeConfig(
        protocol_factory, host, port, unix, model, interval, grace, backlog, on_connection
    )
    if workers > 1:
        from noria.servers.supervisor import run_workers  # one process does not need it

        return run_workers(config, workers, ready)
    return run_server(config, ready)
