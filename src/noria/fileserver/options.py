"""The options of a file server."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from noria.fileserver.auth import PasswordHash
from noria.http.limits import Limits


@dataclass(frozen=True)
class ServerOptions:
    """The arguments of `serve_files`, named as the options of ``noria serve files``."""

    directory: str = "."
    host: str = "127.0.0.1"
    port: int = 8000
    sockets: Sequence[socket.socket] = ()  # listening sockets, in place of host and port
    model: str = "auto"
    workers: int = 1
    grace: float = 30.0  # seconds
    tls: ssl.SSLContext | None = None
    upload: bool = False
    overwrite: bool = False
    read_only: bool = False
    users: Mapping[str, PasswordHash] = field(default_factory=dict)
    tokens: Sequence[str] = ()
    max_size: int | None = None  # bytes
    quota: int | None = None  # bytes
    metrics: bool = False
    allowed_hosts: Sequence[str] = ()  # as for allowed_hosts_for
    cleanup_fd: int = -1  # as for Cleanup
    quota_fd: int = -1  # as for Quota
    events: str = ""  # the broker's URL, as for noria.Bus
    events_source: str = ""  # the source of the events; "" for `file_events.default_source`
    log: str = "none"  # "none", "common" or "json"
    limits: Limits = field(default_factory=Limits)
