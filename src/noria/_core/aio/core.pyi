from collections.abc import Callable
from typing import Any

from noria._core.aio.scheduler import Scheduler
from noria._core.contract import Channel

# The methods of asyncio's loop (add_reader and so on) have the types of asyncio's class.
class Core(Scheduler):
    make_transport: Callable[[Any], object]
    transport_class: type | None
    has_selector_transports: bool
    def close_core(self) -> None: ...
    def channels(self) -> list[Channel]: ...
    def watched(self, fd: int) -> int: ...
