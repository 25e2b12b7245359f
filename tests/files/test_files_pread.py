"""File.pread is a coroutine in all respects, though cached reads take no turn of the loop."""

from __future__ import annotations

import asyncio
import collections.abc
import concurrent.futures
import errno
import gc
import itertools
import os
import platform

import pytest

import noria
from support.file_engines import LOOPS_AND_ENGINES, make_runner
from support.running import run

DATA = bytes(range(256)) * 64


@pytest.fixture(params=LOOPS_AND_ENGINES, ids="-".join)
def go(request, monkeypatch):
    return make_runner(request.param, monkeypatch)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(DATA)
    return path


def forget(path):
    """Nothing of the file is in the page cache."""
    fd = os.open(path, os.O_RDWR)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


@pytest.mark.parametrize("cached", [True, False])
def test_awaited_in_every_way(go, path, cached):
    async def main():
        async with noria.open(path, "rb") as file:
            if not cached:
                forget(path)
            assert await file.pread(5, 3) == DATA[3:8]
            assert await asyncio.create_task(file.pread(5, 4)) == DATA[4:9]
            assert await asyncio.wait_for(file.pread(5, 5), 60) == DATA[5:10]
            assert await asyncio.shield(file.pread(5, 6)) == DATA[6:11]
            parts = await asyncio.gather(*(file.pread(16, place) for place in range(1000)))
            assert parts == [DATA[place : place + 16] for place in range(1000)]
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(file.pread(1, place)) for place in range(5)]
            assert b"".join(task.result() for task in tasks) == DATA[:5]

    go(main())


def test_where_the_file_ends(go, path):
    async def main():
        async with noria.open(path, "rb") as file:
            assert await file.pread(100, len(DATA) - 7) == DATA[-7:]
            assert await file.pread(100, len(DATA)) == b""
            assert await file.pread(100, len(DATA) + 5) == b""
            assert await file.pread(0, 0) == b""
            assert await file.tell() == 0

    go(main())


def test_wrong_use_raises_when_it_is_awaited(go, path):
    async def main():
        async with noria.open(path, "rb") as file:
            for size, offset in ((-1, 0), (1, -1)):
                with pytest.raises(OSError, match="Invalid argument") as caught:
                    await file.pread(size, offset)
                assert (caught.value.errno, caught.value.filename) == (errno.EINVAL, str(path))
            with pytest.raises(TypeError):
                file.pread("1", 0)
            late = file.pread(1, 0)
        with pytest.raises(ValueError, match="closed file"):
            await late
        async with noria.open(path, "ab") as file:
            with pytest.raises(OSError, match="open for writing only"):
                await file.pread(1, 0)

    go(main())


def test_what_is_not_flushed_is_read(go, path):
    async def main():
        async with noria.open(path, "rb+") as file:
            await file.write(b"new")
            assert await file.pread(4, 0) == b"new" + DATA[3:4]

    go(main())


def test_it_is_a_coroutine(go, path):
    async def main():
        async with noria.open(path, "rb") as file:
            reading = file.pread(4, 0)
            assert asyncio.iscoroutine(reading)
            assert isinstance(reading, collections.abc.Coroutine)
            with pytest.raises(TypeError, match="just-started"):
                reading.send(1)
            reading.close()
            with pytest.raises(RuntimeError, match="already awaited"):
                await reading
            reading = file.pread(4, 0)
            assert await reading == DATA[:4]
            with pytest.raises(RuntimeError, match="already awaited"):
                await reading
            reading = file.pread(4, 0)
            with pytest.raises(StopIteration) as ended:
                reading.send(None)
            assert ended.value.value == DATA[:4]
            reading = file.pread(4, 0)
            with pytest.raises(KeyError):
                reading.throw(KeyError("early"))
            with pytest.raises(RuntimeError, match="already awaited"):
                reading.send(None)
            task = asyncio.create_task(file.pread(4, 0))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    go(main())


def test_one_that_waits_can_be_closed_and_thrown_into(go):
    """/proc does not support cached reads, so that its reads always use the engine."""
    name = "/proc/version"
    with open(name, "rb") as plain:
        start = plain.read(4)
        with pytest.raises(OSError, match="not supported"):
            os.preadv(plain.fileno(), [bytearray(4)], 0, os.RWF_NOWAIT)

    def start_pread(file):
        """Return a pread that waits and its future."""
        while True:
            reading = file.pread(4, 0)
            waits = reading.send(None)
            if waits is not None:
                return reading, waits
            reading.close()  # the thread has ended: it waits for a turn, not for a future

    async def main():
        async with noria.open(name, "rb") as file:
            reading, waits = start_pread(file)
            assert asyncio.isfuture(waits)
            with pytest.raises(KeyError):
                reading.throw(KeyError("late"))
            await asyncio.wait([waits])
            reading, waits = start_pread(file)
            reading.close()
            with pytest.raises(RuntimeError, match="already awaited"):
                reading.send(None)
            await asyncio.wait([waits])
            assert await file.pread(4, 0) == start

    go(main())


@pytest.mark.parametrize("tasks", [1, 64])
def test_a_task_that_only_reads_cached_data_does_not_starve_the_loop(go, path, tasks):
    turns = []  # the count of reads at each turn

    async def main():
        loop = asyncio.get_running_loop()
        done = 0

        def turn():
            nonlocal handle
            turns.append(done)
            handle = loop.call_soon(turn)

        async def work(count, size):
            nonlocal done
            for _ in range(count):
                await file.pread(size, 0)
                done += 1

        async with noria.open(path, "rb") as file:
            handle = loop.call_soon(turn)
            await asyncio.gather(*(work(6400 // tasks, 1024) for _ in range(tasks)))
            assert len(turns) >= 5
            most = max(after - before for before, after in itertools.pairwise(turns))
            assert most <= 512 + tasks
            seen = len(turns)
            os.truncate(path, 1 << 20)
            await work(20, 1 << 20)
            assert len(turns) >= seen + 5
            handle.cancel()

    go(main())


@pytest.mark.parametrize("size", [2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**40, 2**63 - 1])
@pytest.mark.parametrize("buffering", [-1, 0])
def test_sizes_above_what_the_kernel_takes(go, path, size, buffering):
    async def main():
        async with noria.open(path, "rb", buffering) as file:
            assert await file.pread(size, 3) == DATA[3:]
            assert await file.pread(size, len(DATA) + 1) == b""
            assert await file.read_many([(1, size), (0, 2)]) == [DATA[1:], DATA[:2]]
            with pytest.raises(OverflowError):
                await file.pread(2**63, 0)

    go(main())


class Immediate(concurrent.futures.ThreadPoolExecutor):
    """An executor whose futures are done when they are returned."""

    def submit(self, function, /, *arguments, **more):
        future = concurrent.futures.Future()
        try:
            future.set_result(function(*arguments, **more))
        except BaseException as error:
            future.set_exception(error)
        return future


def test_a_thread_that_is_quicker_than_the_loop_does_not_starve_it(go):
    """Newer versions of asyncio (3.13.15, 3.14) set the result of such a future at once."""

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_default_executor(Immediate())
        async with noria.open("/proc/version", "rb") as file:
            for _ in range(3):
                turns = []
                loop.call_soon(turns.append, None)
                assert len(await file.pread(4, 0)) == 4
                assert turns, "the read took no turn of the loop"

    go(main())


def test_cancelled_in_that_turn_it_reports_no_lost_exception(go):
    reports = []

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: reports.append(context["message"]))
        loop.set_default_executor(Immediate())
        file = await noria.open("/proc/self/mem", "rb")
        reading = asyncio.ensure_future(file.pread(4, 0))  # EIO: nothing is mapped at 0
        loop.call_soon(reading.cancel)
        with pytest.raises(asyncio.CancelledError):
            await reading
        await file.close()
        del reading
        gc.collect()

    go(main())
    assert reports == []


# A filter (seccomp(2)) that answers preadv2 with ENOSYS, as emulators of Linux do; for the rest of
# the process.
WITHOUT_PREADV2 = """
import ctypes, errno, platform, struct
number = {"x86_64": 327, "aarch64": 286}[platform.machine()]
code = struct.pack("=" + "HBBI" * 4,
    0x20, 0, 0, 0,                          # BPF_LD | BPF_W | BPF_ABS: the system call's number
    0x15, 0, 1, number,                     # BPF_JMP | BPF_JEQ
    0x06, 0, 0, 0x00050000 | errno.ENOSYS,  # SECCOMP_RET_ERRNO
    0x06, 0, 0, 0x7fff0000)                 # SECCOMP_RET_ALLOW
code = ctypes.create_string_buffer(code, len(code))
program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", 4, ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0      # PR_SET_NO_NEW_PRIVS
assert libc.prctl(22, 2, program, 0, 0) == 0    # PR_SET_SECCOMP
"""


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "aarch64"), reason="its number is not known here"
)
def test_a_kernel_without_the_read_that_never_waits(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"some bytes")
    found = run(
        WITHOUT_PREADV2
        + """
import asyncio, os, sys
import noria
from noria._core.files.cached_read import read_cached

async def main():
    async with noria.open(sys.argv[1], "rb") as file:
        assert read_cached(file.fileno(), 10, 0) is None
        return await file.pread(5, 5) + await file.read()

print(asyncio.run(main()))
""",
        str(path),
    )
    assert found.strip() == "b'bytessome bytes'"
