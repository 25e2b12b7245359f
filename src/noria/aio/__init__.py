"""The asyncio event loop: connections, servers, datagrams, TLS, streams, `run`, the policy.

May import noria._core, noria.models, noria.net and noria.errors.
"""

import sys

from noria.aio.loop import EventLoop
from noria.aio.run import EventLoopPolicy, install, new_event_loop, run

__all__ = ["EventLoop", "EventLoopPolicy", "install", "new_event_loop", "run"]

# asyncio_names.NEWEST_TESTED: on tested versions the module is not imported, to start faster.
if sys.version_info[:2] > (3, 15):
    from noria.aio import asyncio_names

    asyncio_names.warn(asyncio_names.unknown())
