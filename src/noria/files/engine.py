"""The engine of the running loop: an io_uring ring, or the loop's threads.

Each loop has one engine, made for its first file and closed with the loop.
`noria.files.engine.current().name` is "ring" or "threads". The environment variable
NORIA_FILES=threads selects threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import AsyncGenerator

from noria.files.engine_base import Engine
from noria.files.ring_engine import RingEngine
from noria.files.thread_engine import ThreadEngine

ENGINE_ATTRIBUTE = "_noria_files"  # of the loop


def current() -> Engine:
    """The running loop's engine. Raises RuntimeError outside a loop."""
    loop = asyncio.get_running_loop()
    engine: Engine | None = getattr(loop, ENGINE_ATTRIBUTE, None)
    if engine is None:
        engine = make(loop)
        if engine.temporary:
            return engine
        setattr(loop, ENGINE_ATTRIBUTE, engine)
        # A loop has no other hook for its end: asyncio.run and its like close the asynchronous
        # generators that are still open.
        engine.finalizer = _close_with_loop(engine)
        with contextlib.suppress(StopIteration):
            engine.finalizer.__anext__().send(None)
    return engine


async def _close_with_loop(engine: Engine) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        engine.close()
        if getattr(engine.loop, ENGINE_ATTRIBUTE, None) is engine:
            delattr(engine.loop, ENGINE_ATTRIBUTE)


def make(loop: asyncio.AbstractEventLoop) -> Engine:
    """A RingEngine if the kernel grants a ring and the loop can watch it, else a ThreadEngine."""
    wanted = os.environ.get("NORIA_FILES", "ring")
    if wanted not in ("ring", "threads"):
        raise ValueError(f"NORIA_FILES is {wanted!r}: set it to 'ring' or 'threads'")
    if wanted == "ring":
        try:
            return RingEngine(loop)
        except NotImplementedError:
            pass
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                engine = ThreadEngine(loop)
                engine.temporary = True
                return engine
    return ThreadEngine(loop)
