"""A body on its way into a file: blocks are gathered while a thread writes the one before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable

from noria.http.body_splice import Move
from noria.http.request_body import RequestBody
from noria.http.worker_threads import await_uncancelled, run_in_thread

BLOCK = 2 * 1024 * 1024  # bytes given to a thread at a time


async def write_body(
    chunks: AsyncIterable[bytes],
    write: Callable[[list[bytes]], None],
    move: Move | None,
    rest: list[bytes],
) -> None:
    """Takes all of `chunks` and has all but the last of it written: that is left in `rest`, also
    when this raises what the body failed with.

    `write` and `move` are called in threads, one at a time. What is left of a large body goes by
    `move`, if it is given and where that is possible.
    """

    def handed() -> asyncio.Future[None]:
        block = rest[:]
        rest.clear()
        return run_in_thread(write, block)

    pending: asyncio.Future[None] | None = None
    size = 0
    try:
        async for chunk in chunks:
            rest.append(chunk)
            size += len(chunk)
            if size < BLOCK:
                continue
            if pending is not None:
                await await_uncancelled(pending)
            size = 0
            if (
                move is not None
                and isinstance(chunks, RequestBody)
                and (mover := chunks.mover(rest))
            ):
                pending = handed()
                await mover.run(move, pending)
            else:
                pending = handed()
    finally:
        if pending is not None:
            await await_uncancelled(pending)
