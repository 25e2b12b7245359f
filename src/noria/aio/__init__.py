"""The asyncio face of noria: an event loop that any asyncio program can run on."""

import sys

from noria.aio import asyncio_names
from noria.aio.loop import EventLoop
from noria.aio.run import EventLoopPolicy, install, new_event_loop, run

__all__ = ["EventLoop", "EventLoopPolicy", "install", "new_event_loop", "run"]

if sys.version_info[:2] > asyncio_names.NEWEST_TESTED:
    asyncio_names.warn(asyncio_names.unknown())
