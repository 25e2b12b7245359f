"""The asyncio face of noria: an event loop that any asyncio program can run on."""

import sys

from noria.aio.loop import EventLoop
from noria.aio.run import EventLoopPolicy, install, new_event_loop, run

__all__ = ["EventLoop", "EventLoopPolicy", "install", "new_event_loop", "run"]

# That is asyncio_names.NEWEST_TESTED, whose import the tested versions are spared.
if sys.version_info[:2] > (3, 15):
    from noria.aio import asyncio_names

    asyncio_names.warn(asyncio_names.unknown())
