"""Typical work with files, on one file API: file_work.py WAY ROW DIRECTORY SECONDS.

Prints operations a second and the loop's longest stall in milliseconds (0 without a loop).
"""

from __future__ import annotations

import asyncio
import importlib
import itertools
import os
import random
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from noria.compare.loops.peers.common import loop_factory

LOOPS = {"noria": "noria", "noria-threads": "noria", "noria-asyncio": "asyncio"}
LOOPS |= {"noria-uvloop": "uvloop", "blazio": "blazio", "pool": "asyncio", "aiofiles": "asyncio"}
WORKERS = 64
PAGE = 4096
MIB = 1 << 20
SMALL_FILES, SMALL = 10_000, b"x" * 1024
TICK = 0.001  # seconds between clock reads


class Ticker:
    """Records the duration of the loop's longest turn."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.longest = 0.0
        self.last = time.perf_counter()
        self.handle = self.loop.call_later(TICK, self.tick)

    def tick(self) -> None:
        now = time.perf_counter()
        self.longest = max(self.longest, now - self.last - TICK)
        self.last = now
        self.handle = self.loop.call_later(TICK, self.tick)

    def stop(self) -> None:
        self.handle.cancel()
        self.longest = max(self.longest, time.perf_counter() - self.last - TICK)


def opener(way: str) -> Callable[..., Any]:
    """Return the open function of a way that has file objects."""
    module = way.partition("-")[0]
    if module == "noria":
        return importlib.import_module("noria").open
    return importlib.import_module(module).open  # type: ignore[no-any-return]


async def reader(way: str, path: Path) -> Callable[[int, int], Awaitable[bytes]]:
    """Return a function (size, offset) that reads for one worker."""
    if way == "pool":
        fd = os.open(path, os.O_RDONLY)
        loop = asyncio.get_running_loop()
        return lambda size, offset: loop.run_in_executor(None, os.pread, fd, size, offset)
    file = await opener(way)(path, "rb")
    if way != "aiofiles":
        return file.pread  # type: ignore[no-any-return]

    async def pread(size: int, offset: int) -> bytes:
        await file.seek(offset)
        return await file.read(size)  # type: ignore[no-any-return]

    return pread


@lru_cache(1)
def offsets(path: Path) -> list[int]:
    """Return the offset of each block of the file once, in random order."""
    found = [i * PAGE for i in range(path.stat().st_size // PAGE)]
    random.Random(1).shuffle(found)
    return found


def evict_pages(path: Path) -> None:
    """Evict the file from the page cache."""
    fd = os.open(path, os.O_RDWR)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


async def random_reads(way: str, path: Path, seconds: float) -> float:
    """Read all blocks of the file repeatedly with 64 concurrent readers; reads a second."""
    places = itertools.cycle(offsets(path))
    done = 0
    end = time.perf_counter() + seconds

    async def work() -> None:
        nonlocal done
        pread = await reader(way, path)
        while time.perf_counter() < end:
            for offset in itertools.islice(places, 16):
                await pread(PAGE, offset)
            done += 16

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(WORKERS)))
    return done / (time.perf_counter() - began)


async def gathered_reads(way: str, path: Path, seconds: float) -> float:
    """Gather 64 reads, each in its own task, then the next 64; reads a second."""
    places = itertools.cycle(offsets(path))
    preads = [await reader(way, path) for _ in range(WORKERS)]
    done = 0
    began = time.perf_counter()
    end = began + seconds
    while time.perf_counter() < end:
        await asyncio.gather(
            *(pread(PAGE, offset) for pread, offset in zip(preads, places, strict=False))
        )
        done += WORKERS
    return done / (time.perf_counter() - began)


async def sequential(way: str, path: Path, seconds: float) -> float:
    """Read the file sequentially in blocks of 1 MiB; bytes a second."""
    pread = await reader(way, path)
    size = path.stat().st_size
    began = time.perf_counter()
    for offset in range(0, size, MIB):
        assert len(await pread(MIB, offset)) == MIB
    return size / (time.perf_counter() - began)


async def small_files(way: str, directory: Path, seconds: float) -> float:
    """Write files of 1 KiB with 64 concurrent writers; files a second."""
    numbers: Iterator[int] = iter(range(SMALL_FILES))
    loop = asyncio.get_running_loop()

    def write(path: str) -> None:
        with open(path, "wb") as file:
            file.write(SMALL)

    async def work() -> None:
        for number in numbers:
            path = f"{directory}/{number}"
            if way == "pool":
                await loop.run_in_executor(None, write, path)
                continue
            if way == "blazio":
                file = await opener(way)(path, "wb")
                await file.write(SMALL)
                await file.close()
                continue
            async with opener(way)(path, "wb") as file:
                await file.write(SMALL)

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(WORKERS)))
    return SMALL_FILES / (time.perf_counter() - began)


async def lines(way: str, path: Path, seconds: float) -> float:
    """Iterate over the lines of a file with `async for`; lines a second."""
    count = 0
    opened: Any = opener(way)(path, "r")
    file = await opened
    began = time.perf_counter()
    end = began + seconds
    async for _ in file:
        count += 1
        if not count & 0xFF and time.perf_counter() > end:
            break
    return count / (time.perf_counter() - began)


async def durable(way: str, directory: Path, seconds: float) -> float:
    """Write and fsync each block with 64 concurrent writers; blocks a second."""
    block = b"y" * PAGE
    loop = asyncio.get_running_loop()
    done = 0
    end = time.perf_counter() + seconds

    async def work(number: int) -> None:
        nonlocal done
        path = directory / f"durable-{number}"
        file = None
        if way in ("pool", "blazio"):  # blazio has no fsync
            fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        else:
            file = await opener(way)(path, "wb", **({"buffering": 0} if way == "aiofiles" else {}))
            fd = file.fileno()
        for place in itertools.count():
            if time.perf_counter() > end:
                break
            offset = place % 64 * PAGE
            if file is None:
                await loop.run_in_executor(None, os.pwrite, fd, block, offset)
                await loop.run_in_executor(None, os.fsync, fd)
            elif way == "aiofiles":
                await file.seek(offset)
                await file.write(block)
                await loop.run_in_executor(None, os.fsync, fd)
            else:
                await file.pwrite(block, offset)
                await file.fsync()
            done += 1

    began = time.perf_counter()
    await asyncio.gather(*(work(number) for number in range(WORKERS)))
    return done / (time.perf_counter() - began)


def os_function(way: str) -> Callable[..., Awaitable[Any]]:
    """Return a coroutine function that calls a function of os."""
    if way == "pool":
        loop = asyncio.get_running_loop()
        return lambda name, *words: loop.run_in_executor(None, getattr(os, name), *words)
    module = importlib.import_module(f"{way.partition('-')[0]}.os")
    return lambda name, *words: getattr(module, name)(*words)


async def stats(way: str, path: Path, seconds: float) -> float:
    """Stat a file from 64 tasks; calls a second."""
    call = os_function(way)
    done = 0
    end = time.perf_counter() + seconds

    async def work() -> None:
        nonlocal done
        while time.perf_counter() < end:
            for _ in range(16):
                await call("stat", path)
            done += 16

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(WORKERS)))
    return done / (time.perf_counter() - began)


async def names(way: str, directory: Path, seconds: float) -> float:
    """Make, rename and remove a directory per task in 64 tasks; calls a second."""
    call = os_function(way)
    done = 0
    end = time.perf_counter() + seconds

    async def work(number: int) -> None:
        nonlocal done
        old, new = f"{directory}/{number}", f"{directory}/{number}-new"
        while time.perf_counter() < end:
            await call("mkdir", old)
            await call("rename", old, new)
            await call("rmdir", new)
            done += 3

    began = time.perf_counter()
    await asyncio.gather(*(work(number) for number in range(WORKERS)))
    return done / (time.perf_counter() - began)


def plain(row: str, path: Path, seconds: float) -> float:
    """Do the row's work with blocking calls."""
    began = time.perf_counter()
    end = began + seconds
    count = 0
    if row in ("cached", "gathered", "uncached"):
        fd = os.open(path, os.O_RDONLY)
        for offset in itertools.cycle(offsets(path)):
            os.pread(fd, PAGE, offset)
            count += 1
            if not count & 0xF and time.perf_counter() > end:
                break
    elif row == "sequential":
        fd = os.open(path, os.O_RDONLY)
        for offset in range(0, path.stat().st_size, MIB):
            count += len(os.pread(fd, MIB, offset))
    elif row == "small":
        for count in range(1, SMALL_FILES + 1):
            with open(f"{path}/{count}", "wb") as file:
                file.write(SMALL)
    elif row == "lines":
        with open(path) as file:
            for _ in file:
                count += 1
                if not count & 0xFF and time.perf_counter() > end:
                    break
    elif row == "stats":
        while time.perf_counter() < end:
            os.stat(path)
            count += 1
    elif row == "names":
        while time.perf_counter() < end:
            os.mkdir(f"{path}/0")
            os.rename(f"{path}/0", f"{path}/1")
            os.rmdir(f"{path}/1")
            count += 3
    else:
        fd = os.open(path / "durable", os.O_WRONLY | os.O_CREAT, 0o600)
        while time.perf_counter() < end:
            os.pwrite(fd, b"y" * PAGE, count % 64 * PAGE)
            os.fsync(fd)
            count += 1
    return count / (time.perf_counter() - began)


ROWS = {
    "cached": random_reads,
    "gathered": gathered_reads,
    "uncached": random_reads,
    "sequential": sequential,
    "small": small_files,
    "lines": lines,
    "durable": durable,
    "stats": stats,
    "names": names,
}


async def run_with_ticker(way: str, row: str, path: Path, seconds: float) -> tuple[float, float]:
    """Run the row; return its value and the loop's longest stall in seconds."""
    # One-time work is not part of the measurement.
    if way != "pool":
        file = await opener(way)(__file__, "r")
        await file.readline()
        await file.close()
    if row in ("cached", "gathered", "uncached"):
        offsets(path)
    ticker = Ticker()
    figure = await ROWS[row](way, path, seconds)
    ticker.stop()
    return figure, ticker.longest


def main() -> None:
    """The command."""
    way, row, where, seconds = sys.argv[1], sys.argv[2], Path(sys.argv[3]), float(sys.argv[4])
    if row == "sequential":
        # A device reads recently read blocks faster; this applies to every way alike.
        with open(where, "rb", buffering=0) as file:
            while file.read(MIB):
                pass
    if row in ("uncached", "sequential"):
        evict_pages(where)
    if way == "sync":
        figure, stall = plain(row, where, seconds), 0.0
    else:
        with asyncio.Runner(loop_factory=loop_factory(LOOPS[way])) as runner:
            figure, stall = runner.run(run_with_ticker(way, row, where, seconds))
    print(figure, stall * 1e3)


if __name__ == "__main__":
    main()
