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
        make_face: Callable[[DatagramSocket], asyncio.DatagramTransport],
        given: bool,
    ) -> None: ...
    @property
    def transport(self) -> asyncio.DatagramTransport | None: ...
    @property
    def lost_protocol(self) -> bool: ...
    def disown(self, face: Any) -> None: ...
