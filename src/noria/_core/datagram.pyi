import asyncio
import socket
from typing import Any

from noria._core.loop import Loop
from noria._core.transport import TransportChannel

class DatagramChannel(TransportChannel):
    def close(self) -> None: ...

class Datagrams(DatagramChannel):
    def __init__(
        self, loop: Loop, sock: socket.socket, protocol: asyncio.DatagramProtocol
    ) -> None: ...
    def sendto(self, data: bytes | bytearray | memoryview, addr: Any = None) -> None: ...
