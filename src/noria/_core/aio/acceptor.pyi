import asyncio
import contextvars
import socket
from collections.abc import Callable
from typing import Any

from noria._core.aio.core import Core
from noria._core.contract import Channel

_Factory = Callable[[], asyncio.BaseProtocol]

class Acceptor(Channel):
    def __init__(
        self,
        core: Core,
        sock: socket.socket,
        factory: _Factory,
        server: Any,
        serve_tls: Callable[[_Factory, socket.socket, Any], None] | None,
        context: contextvars.Context | None = None,
    ) -> None: ...
    def stop(self) -> None: ...

def transports_of(core: Core, server: Any) -> list[asyncio.Transport]: ...
