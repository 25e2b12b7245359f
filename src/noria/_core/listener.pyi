import asyncio
import socket
from collections.abc import Callable
from typing import Any

from noria._core.contract import Channel
from noria._core.loop import Loop
from noria._core.stream import Stream
from noria._core.transport import StreamSet

class AcceptChannel(Channel):
    def resume(self) -> None: ...

class Listener(AcceptChannel):
    group: StreamSet
    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        factory: Callable[[], asyncio.BaseProtocol],
        group: StreamSet,
    ) -> None: ...
    @property
    def sockname(self) -> Any: ...
    def close(self) -> None: ...

def open_stream(
    loop: Loop, fd: int, protocol: asyncio.BaseProtocol, group: StreamSet, tcp: bool
) -> Stream: ...
