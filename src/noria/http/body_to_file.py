"""Writing a request body in worker threads, while the next blocks arrive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable

from noria.http.request_body import RequestBody, SpliceFunction
from noria.http.worker_threads import await_uncancelled, run_in_thread

WRITE_BLOCK_SIZE = 2 * 1024 * 1024  # bytes given to a thread at a time


async def write_body(
    chunks: AsyncIterable[bytes],
    write: Callable[[list[bytes]], None],
    splice_to_file: SpliceFunction | None,
    rest: list[bytes],
) -> None:
    """Write all of `chunks` but the last block, which is left in `rest`, also if this raises.

    `write` and `splice_to_file` are called in worker threads, one at a time. If `splice_to_file` is
    given, the rest of a large body is spliced where that is possible. Raises the exceptions of the
    body and of both functions.
    """

    def start_write() -> asyncio.Future[None]:
        block = rest[:]
        rest.clear()
        return run_in_thread(write, block)

    pending: asyncio.Future[None] | None = None
    size = 0
    try:
        async for chunk in chunks:
            rest.append(chunk)
            size += len(chunk)
            if size < WRITE_BLOCK_SIZE:
                continue
            if pending is not None:
                await await_uncancelled(pending)
            size = 0
            splicer = None
            if splice_to_file is not None and isinstance(chunks, RequestBody):
                splicer = chunks.detach(rest)
            pending = start_write()
            if splicer is not None and splice_to_file is not None:
                await splicer.run(splice_to_file, pending)
    finally:
        if pending is not None:
            await await_uncancelled(pending)
