import asyncio
import socket
from collections.abc import Callable
from typing import Any

from noria._core.contract import Channel
from noria._core.loop import Loop
from noria._core.stream import StreamSet

class Listener(Channel):
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
    def resume(self) -> None: ...
    def close(self) -> None: ...
