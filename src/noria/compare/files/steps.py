"""The steps on the path of the bytes. After each one, count where the bytes are."""

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
from noria.compare.files.watch import Ticker, WaitRecorder
from noria.files.binary import DEFAULT_BUFFER_SIZE
from noria.files.engine import current

Row = dict[str, Any]

STEPS = {
    "write": "copies the bytes into the file object's buffer",
    "flush": "writes the buffer to the kernel, which keeps it in the page cache",
    "fsync": "the kernel writes the cached bytes to the device, and waits for it",
    "read cached": "pread of bytes that are in the page cache",
    "drop": "the cache drops its clean pages: posix_fadvise with DONTNEED",
    "read dropped": "pread again: reads the device, and fills the cache",
    "direct write": "write and flush with direct=True: to the device, bypassing the cache",
    "direct read": "pread with direct=True: from the device, bypassing the cache",
}
"""The steps in order, each with a description."""

NO_DIRECT = "O_DIRECT is refused here: the direct steps are skipped"
PAGES_NOT_DROPPED = "Some pages stayed in the cache after the drop"
DIRECT_CACHED = "This file system accepts O_DIRECT, but uses the cache nevertheless"


class Walk:
    """Run all steps on the running loop, any number of times."""

    def __init__(self, directory: str, counter: Counter) -> None:
        self._names = [Path(directory, f"{os.getpid()}.{name}") for name in ("cached", "direct")]
        self._data = b""
        self._counter = counter
        engine = current()
        self.engine = engine.name
        self._wait_recorder = WaitRecorder(engine)
        self._ticker = Ticker(engine.loop)
        self._rows: list[Row] = []

    async def run(self, data: bytes) -> list[Row]:
        """Run all steps and return one row per step. The files are removed. Raises OSError."""
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
        """The longest stall (seconds) of an idle loop in 20 ms: the ticker's own delay."""
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
        # The buffer holds all bytes, so that write passes nothing to the kernel.
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
        """Await `doing`, and add a row for it.

        `settled`: nothing was written since the last fsync, so all cached bytes are on the device.
        """
        self._wait_recorder.start()
        self._ticker.start()
        began, work = time.perf_counter(), time.thread_time()
        await doing
        took, work = time.perf_counter() - began, time.thread_time() - work
        waited, stall = self._wait_recorder.waited, await self._ticker.longest()
        held = self._counter.cached_bytes(file.fileno())
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
            return PAGES_NOT_DROPPED
        if name == "direct write" and cached > PAGE:  # the last, partial page may be cached
            return DIRECT_CACHED
        return ""


async def _drop(fd: int) -> None:
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


async def _written(file: Any, data: bytes) -> None:
    await file.write(data)
    await file.flush()
