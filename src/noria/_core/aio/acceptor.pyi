import asyncio
import contextvars
import socket
from collections.abc import Callable
from typing import Any

from noria._core.aio.core import Core
from noria._core.contract import Channel

Factory = Callable[[], asyncio.BaseProtocol]

class Acceptor(Channel):
    def __init__(
        self,
        core: Core,
        sock: socket.socket,
        factory: Factory,
        server: Any,
        serve_tls: Callable[[Factory, socket.socket, Any], None] | None,
        context: contextvars.Context | None = None,
    ) -> None: ...
    def stop(self) -> None: ...
