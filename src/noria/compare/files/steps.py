"""The path of the bytes, step by step, with a look at where they are after each."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import noria
from noria.compare.files.held import PAGE, Counter
from noria.compare.files.watch import Ticker, Witness
from noria.files.binary import DEFAULT_BUFFER_SIZE
from noria.files.engine import current

Row = dict[str, Any]

STEPS = {
    "write": "the bytes go into the file object's own buffer",
    "flush": "the buffer goes to the kernel, which keeps it in its page cache",
    "fsync": "the kernel writes the cache to the device, and waits for it",
    "read cached": "pread of what is in the page cache",
    "drop": "the cache lets go of its clean pages: posix_fadvise, DONTNEED",
    "read dropped": "pread once more: the device is read, and the cache filled",
    "direct write": "write and flush with direct=True: to the device, past the cache",
    "direct read": "pread with direct=True: from the device, past the cache",
}
"""Each step and what happens in it, in order."""

NO_DIRECT = "O_DIRECT is refused here: the steps past the cache are left out"
STAYED = "Pages stayed in the cache when it was dropped"
THROUGH = "This file system takes O_DIRECT and goes through the cache all the same"


class Walk:
    """Takes bytes along the path as often as it is asked, on the running loop."""

    def __init__(self, directory: str, counter: Counter) -> None:
        self._names = [Path(directory, f"{os.getpid()}.{name}") for name in ("cached", "direct")]
        self._data = b""
        self._counter = counter
        engine = current()
        self.engine = engine.name
        self._witness = Witness(engine)
        self._ticker = Ticker(engine.loop)
        self._rows: list[Row] = []

    async def once(self, data: bytes) -> list[Row]:
        """A row for each step; the files are gone afterwards. Raises OSError."""
        self._data = data
        self._rows = []
        try:
            await self._cached(self._names[0])
            try:
                await self._direct(self._names[1])
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                    raise
                self._rows = [row for row in self._rows if not row["step"].startswith("direct")]
                self._rows[-1]["note"] = NO_DIRECT
        finally:
            self.clean()
        return self._rows

    async def idle(self) -> float:
        """Seconds of the loop's longest stall in 20 ms without any step: by so much the ticker is
        late of itself."""
        self._ticker.start()
        await asyncio.sleep(0.02)
        return await self._ticker.longest()

    def stop(self) -> None:
        self._ticker.stop()
        self.clean()

    def clean(self) -> None:
        for name in self._names:
            name.unlink(missing_ok=True)

    async def _cached(self, path: Path) -> None:
        size = len(self._data)
        # The buffer holds everything, so that write alone hands nothing over.
        async with noria.open(path, "xb+", max(size, DEFAULT_BUFFER_SIZE)) as file:
            await self._step("write", file, file.write(self._data))
            await self._step("flush", file, file.flush())
            self._counter.check(file.fileno())
            await self._step("fsync", file, file.fsync(), settled=True)
            await self._step("read cached", file, file.pread(size, 0), settled=True)
            await self._step("drop", file, _drop(file.fileno()), settled=True)
            await self._step("read dropped", file, file.pread(size, 0), settled=True)

    async def _direct(self, path: Path) -> None:
        size = len(self._data)
        async with noria.open(path, "xb+", max(size, DEFAULT_BUFFER_SIZE), direct=True) as file:
            await self._step("direct write", file, _written(file, self._data))
            await self._step("direct read", file, file.pread(size, 0))

    async def _step(
        self, name: str, file: Any, doing: Awaitable[Any], *, settled: bool = False
    ) -> None:
        """Does it, and adds its row. `settled`: fsync has come back, and nothing was written since,
        so that what is in the cache is known to be on the device too."""
        self._witness.start()
        self._ticker.start()
        began, work = time.perf_counter(), time.thread_time()
        await doing
        took, work = time.perf_counter() - began, time.thread_time() - work
        waited, stall = self._witness.waited, await self._ticker.longest()
        held = self._counter.held(file.fileno())
        buffer = file._unflushed_size()
        unsaved = None if held.dirty is None else held.dirty + (held.writeback or 0)
        if unsaved is None and (settled or not held.cached):
            unsaved = 0
        size = len(self._data)
        self._rows.append(
            {
                "engine": self.engine,
                "step": name,
                "us": took * 1e6,
                "waited": waited,
                "work_us": work * 1e6,
                "stall_us": stall * 1e6,
                "buffer": buffer,
                "cached": held.cached,
                "dirty": held.dirty,
                "writeback": held.writeback,
                "device": None if unsaved is None else max(0, size - buffer - unsaved),
                "note": self._note(name, held.cached),
            }
        )

    def _note(self, name: str, cached: int) -> str:
        if name == "drop" and cached:
            return STAYED
        if name == "direct write" and cached > PAGE:  # a last piece of a page may go through it
            return THROUGH
        return ""


async def _drop(fd: int) -> None:
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


async def _written(file: Any, data: bytes) -> None:
    await file.write(data)
    await file.flush()
