"""The asyncio face of noria: an event loop that any asyncio program can run on."""

from noria.aio.loop import EventLoop
from noria.aio.run import EventLoopPolicy, install, new_event_loop, run

__all__ = ["EventLoop", "EventLoopPolicy", "install", "new_event_loop", "run"]
