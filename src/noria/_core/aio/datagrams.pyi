import asyncio
import socket
from collections.abc import Callable
from typing import Any

from noria._core.aio.core import Core
from noria._core.contract import Channel

class DatagramSocket(Channel):
    def __init__(
        self,
        core: Core,
        sock: socket.socket,
        protocol: asyncio.DatagramProtocol,
        address: Any,
        waiter: asyncio.Future[None] | None,
        make_transport: Callable[[DatagramSocket], asyncio.DatagramTransport],
        from_caller: bool,
    ) -> None: ...
    @property
    def transport(self) -> asyncio.DatagramTransport | None: ...
    @property
    def connection_lost_called(self) -> bool: ...
    def close_unreferenced(self, transport: Any) -> None: ...
