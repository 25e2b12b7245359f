"""An upload as the event loop sees it: blocks are gathered while a thread writes the one before."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterable

from noria.fileserver.messages import Headers, Problem
from noria.fileserver.names import names
from noria.fileserver.offloop import off
from noria.fileserver.paths import Root, problem
from noria.fileserver.quota import Quota
from noria.fileserver.store import Part, commit

BLOCK = 1024 * 1024  # bytes given to a thread at a time


class Put:
    """One file on its way into `path`; the limits as of FileService. Raises Problem."""

    def __init__(
        self,
        root: Root,
        path: str,
        quota: Quota,
        *,
        max_size: int | None,
        floor: int,
        sha256: bytes | None,
    ):
        self._sha256 = sha256
        self._make = off(
            Part,
            root,
            path,
            quota,
            max_size=max_size,
            floor=floor,
            hashed=sha256 is not None,
        )
        self._pending: asyncio.Future[None] | None = None  # the write under way

    async def run(
        self,
        chunks: AsyncIterable[bytes],
        size: int | None,
        conditions: Headers,
        overwrite: bool,
    ) -> tuple[bool, str]:
        """Takes all of `chunks`; gives (new, entity tag). What fails or is cancelled is undone."""
        try:
            part = await asyncio.shield(self._make)
        except asyncio.CancelledError:
            self._make.add_done_callback(_abandon)
            raise
        try:
            last = await self._fill(part, chunks)
            # Shielded: once begun it ends, so that it is known to `abandon` whether it did.
            return await asyncio.shield(
                off(
                    part.finish,
                    last,
                    size=size,
                    sha256=self._sha256,
                    conditions=conditions,
                    overwrite=overwrite,
                )
            )
        except BaseException:
            if self._pending is not None and not self._pending.done():
                await asyncio.wait([self._pending])
            await asyncio.shield(off(part.abandon))
            raise

    async def _fill(self, part: Part, chunks: AsyncIterable[bytes]) -> bytes:
        """Writes all but the last block, which it gives."""
        gathered: list[bytes] = []
        size = 0
        async for chunk in chunks:
            gathered.append(chunk)
            size += len(chunk)
            if size >= BLOCK:
                await self._written()
                self._pending = off(part.write, b"".join(gathered))
                gathered, size = [], 0
        await self._written()
        return b"".join(gathered)

    async def _written(self) -> None:
        """Waits for the write under way."""
        if self._pending is not None:
            await asyncio.shield(self._pending)
            self._pending = None

    @staticmethod
    def adopt(
        root: Root, source: str, path: str, conditions: Headers, overwrite: bool
    ) -> tuple[bool, str]:
        """In a thread: syncs and renames the file `source`, relative to the root, to `path`."""
        *above, name = source.strip("/").split("/")
        try:
            with root.parent(path) as (directory, _):
                here = os.open(root.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                fd = -1
                try:
                    for each in above:
                        inner = os.open(
                            each,
                            os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC,
                            dir_fd=here,
                        )
                        os.close(here)
                        here = inner
                    fd = os.open(
                        name,
                        os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC,
                        dir_fd=here,
                    )
                    new, tag, _ = commit(
                        here, name, fd, directory, names(path)[-1], conditions, overwrite
                    )
                    return new, tag
                finally:
                    os.close(here)
                    if fd >= 0:
                        os.close(fd)
        except OSError as error:
            if error.errno == errno.EXDEV:
                raise Problem(409, "The upload lies on another file system than that.") from None
            raise problem(error) from None


def _abandon(made: asyncio.Future[Part]) -> None:
    """What was made after nobody wanted it any more."""
    if not made.cancelled() and made.exception() is None:
        off(made.result().abandon)
