"""noria.open in binary mode behaves as the built-in open, on every loop."""

import asyncio
import ctypes
import gc
import io
import os
import random
import signal
import threading

import pytest

import noria
from noria._core.files.file_ring import FileRing
from noria.files.engine_base import Engine
from support.file_engines import (
    LOOPS_AND_ENGINES,
    describe_error,
    make_runner,
    result_or_error,
    ring_works,
)
from support.loops import SEED, count

MODES = ("rb", "wb", "ab", "xb", "rb+", "wb+", "ab+", "xb+")


@pytest.fixture(params=LOOPS_AND_ENGINES, ids="-".join)
def go(request, monkeypatch):
    return make_runner(request.param, monkeypatch)


@pytest.fixture(params=[LOOPS_AND_ENGINES[-1], LOOPS_AND_ENGINES[2]], ids="-".join)
def some(request, monkeypatch):
    """Two of the loops, for tests that hardly depend on the loop."""
    return make_runner(request.param, monkeypatch)


def test_every_method(go, tmp_path):
    path = tmp_path / "file"

    async def main():
        async with noria.open(path, "wb+") as file:
            assert await file.write(b"one\ntwo\nthree") == 13
            assert await file.tell() == 13
            assert path.read_bytes() == b""  # buffered
            await file.flush()
            assert path.read_bytes() == b"one\ntwo\nthree"
            assert await file.seek(0) == 0
            assert [line async for line in file] == [b"one\n", b"two\n", b"three"]
            await file.seek(4)
            assert await file.peek() == b"two\nthree"
            assert await file.read1(2) == b"tw"
            buffer = bytearray(4)
            assert await file.readinto(buffer) == 4
            assert buffer == b"o\nth"
            assert await file.pread(3, 4) == b"two"
            assert await file.read() == b"ree"
            assert await file.pwrite(b"T", 4) == 1
            assert await file.read_many([(0, 3), (4, 3), (100, 3)]) == [b"one", b"Two", b""]
            await file.writelines([b"4", bytearray(b"5"), memoryview(b"6")])
            await file.fsync()
            await file.fdatasync()
            parts = [bytearray(3), bytearray(2)]
            assert await file.readv(parts, 0) == 5
            assert parts == [b"one", b"\nT"]
            assert await file.writev([b"ON", b"E"], 0) == 3
            assert await file.writev([b"7", b"8"]) == 2
            assert await file.truncate(16) == 16
            assert (await file.seekable(), await file.writable(), file.readable()) == (True,) * 3
            assert not await file.isatty()
            assert os.get_inheritable(file.fileno()) is False
        assert file.closed
        assert path.read_bytes() == b"ONE\nTwo\nthree456"
        with pytest.raises(ValueError, match="closed"):
            await file.read(1)

    go(main())


def test_awaited_and_closed(go, tmp_path):
    path = tmp_path / "file"

    async def main():
        file = await noria.open(str(path), "xb", 0)
        assert await file.write(b"abc") == 3
        assert path.read_bytes() == b"abc"
        await file.close()
        await file.close()
        async with noria.open(path, "rb", 0) as file:
            assert await file.readall() == b"abc"
        with pytest.raises(FileExistsError) as caught:
            await noria.open(path, "xb")
        assert caught.value.filename == str(path)

    go(main())


def operations(dice, size):
    """A random method and its arguments."""
    data = bytes(dice.choices(b"ab\n\r", k=dice.choice((0, 1, 7, 100, 5000))))
    some = dice.choice((0, 1, 3, 50, size, -1))
    return dice.choice(
        [
            ("read", some),
            ("read",),
            ("readline", dice.choice((-1, 0, 5))),
            ("readline",),
            ("readlines", dice.choice((-1, 20))),
            ("write", data),
            ("write", bytearray(data)),
            ("writelines", [data, b"x"]),
            ("write", "text"),
            ("seek", dice.randrange(-1, size + 5)),
            ("seek", dice.randrange(-3, 3), 1),
            ("seek", dice.randrange(-5, 1), 2),
            ("seek", 0, 9),
            ("tell",),
            ("flush",),
            ("truncate", dice.randrange(size)),
            ("truncate",),
        ]
    )


@pytest.mark.parametrize("buffering", [8192, 0, 16])
@pytest.mark.parametrize("mode", MODES)
def test_the_same_as_the_built_in(mode, buffering, some, tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    dice = random.Random(f"{mode}{buffering}{SEED}")

    async def once():
        start = bytes(dice.choices(b"abc\n", k=dice.choice((0, 10, 3000))))
        for path in (ours, theirs):
            path.unlink(missing_ok=True)
            if "x" not in mode:
                path.write_bytes(start)
        history = []
        with open(theirs, mode, buffering) as oracle:
            async with noria.open(ours, mode, buffering) as file:
                for _ in range(25):
                    name, *arguments = operations(dice, len(start) + 10)
                    history.append((name, arguments))
                    try:
                        expected = getattr(oracle, name)(*arguments)
                    except Exception as error:
                        expected = describe_error(error)
                    assert await result_or_error(getattr(file, name)(*arguments)) == expected, (
                        history
                    )
                    if "a" in mode and buffering and name.startswith("write"):
                        # After an append the built-in's position is wrong until the next seek.
                        assert oracle.seek(0, 2) == await file.seek(0, 2)
        assert ours.read_bytes() == theirs.read_bytes(), history

    async def main():
        for _ in range(count(8, 300)):
            await once()

    some(main())


@pytest.mark.parametrize(
    ("mode", "more"),
    [
        ("rq", {}),
        ("rw", {}),
        ("", {}),
        ("+", {}),
        ("rbt", {}),
        ("rr", {}),
        ("rb", {"encoding": "utf-8"}),
        ("rb", {"errors": "strict"}),
        ("rb", {"newline": ""}),
        ("r", {"buffering": 0}),
        ("r", {"newline": "x"}),
        ("r", {"encoding": "no-such-encoding"}),
        ("r", {"closefd": False}),
        (3, {}),
        ("r", {"opener": lambda path, flags: -1}),
        ("r", {"opener": lambda path, flags: 1 / 0}),
    ],
)
def test_arguments_are_refused_as_by_the_built_in(mode, more, some, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"")
    with pytest.raises(Exception) as expected:  # noqa: PT011
        open(path, mode, **more)  # noqa: SIM115

    async def main():
        with pytest.raises(type(expected.value)):
            await noria.open(path, mode, **more)

    some(main())


@pytest.mark.parametrize("mode", ["rb", "r", "wb", "ab+"])
@pytest.mark.parametrize("name", ["missing/file", ".", "n" * 300, "file/below", "a\0b", -1, 9999])
def test_what_cannot_be_opened(name, mode, some, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises((OSError, ValueError)) as expected:
        open(name, mode)  # noqa: SIM115

    async def main():
        return await result_or_error(noria.open(name, mode))

    assert some(main()) == describe_error(expected.value)


def test_disk_full(some):
    async def main():
        async with noria.open("/dev/full", "wb", 0) as file:
            with pytest.raises(OSError, match="No space"):
                await file.write(b"x")
        file = await noria.open("/dev/full", "wb")
        await file.write(b"x")
        with pytest.raises(OSError, match="No space"):
            await file.close()
        assert file.closed

    some(main())


def test_append_is_the_kernels(some, tmp_path):
    path = tmp_path / "file"

    async def main():
        async with noria.open(path, "ab") as one, noria.open(path, "ab") as two:
            for i in range(100):
                await one.write(b"1" * i)
                await one.flush()
                await two.write(b"2" * i)
                await two.flush()

    some(main())
    assert path.read_bytes() == b"".join(b"1" * i + b"2" * i for i in range(100))


def test_descriptors_openers_and_names(some, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abcdef")
    directory = os.open(tmp_path, os.O_RDONLY)

    def opener(name, flags):
        return os.open(name, flags, dir_fd=directory)

    async def main():
        async with noria.open("file", "rb", opener=opener) as file:
            assert (await file.read(), file.name, file.mode) == (b"abcdef", "file", "rb")
        fd = os.open(path, os.O_RDONLY)
        os.lseek(fd, 2, os.SEEK_SET)
        async with noria.open(fd, "rb", closefd=False) as file:
            assert (await file.read(2), file.name) == (b"cd", fd)
        async with noria.open(fd, "rb") as file:
            assert await file.pread(2, 0) == b"ab"
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
        file = await noria.open(path, "rb")
        assert await file.read(1) == b"a"
        with file.detach() as raw:
            assert (raw.read(2), raw.name) == (b"bc", str(path))
        with pytest.raises(ValueError, match="closed"):
            file.fileno()

    some(main())
    os.close(directory)


def test_a_pipe(go):
    async def main():
        a, b = os.pipe()
        async with noria.open(b, "wb") as writer, noria.open(a, "rb") as reader:
            assert not await reader.seekable()
            with pytest.raises(io.UnsupportedOperation):
                await reader.seek(0)
            waiting = asyncio.ensure_future(reader.readline())
            await asyncio.sleep(0.01)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            # Data that arrives later is not lost with the cancelled read.
            await writer.write(b"one\ntwo\nrest")
            await writer.flush()
            assert await reader.readline() == b"one\n"
            assert await reader.read1() == b"two\nrest"
            await writer.write(b"end")
            await writer.close()
            assert await reader.read() == b"end"

    go(main())


async def reading_a_pipe(read):
    """A pipe's file, a read of it in progress, and the descriptor to write to."""
    a, b = os.pipe()
    file = await noria.open(a, "rb")
    reading = asyncio.ensure_future(getattr(file, read)())
    await asyncio.sleep(0.01)
    return file, reading, b


def test_a_closed_reader_takes_nothing_from_its_pipe(some):
    """After its file is closed, the kernel cancels a cancelled read too."""
    if some.engine == "threads":
        pytest.skip("a thread cannot be given up")

    async def main():
        file, reading, b = await reading_a_pipe("read1")
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await file.close()
        with pytest.raises(BrokenPipeError):
            os.write(b, b"nobody has this")
        os.close(b)

    some(main())


def test_a_ring_closes_at_once_where_reads_wait_for_others():
    """The kernel cancels all reads of pipes before close returns."""

    async def main():
        ring = FileRing(asyncio.get_running_loop())
        a, b = os.pipe()
        requests = [ring.read(a, 10, -1), ring.readv(a, [bytearray(3)], -1)]
        ring.flush()
        assert ring.in_flight == 2
        ring.cancel(requests[0])
        assert (requests[0].completed, ring.in_flight) == (True, 1)
        ring.close()
        # Not completed if close had reached its time limit.
        assert (requests[1].completed, ring.in_flight) == (True, 0)
        for request in requests:
            with pytest.raises(OSError, match="ancel"):
                await request.future
        os.close(a)
        os.close(b)

    if not ring_works():
        pytest.skip("io_uring is refused here")
    asyncio.run(main())


def test_several_buffers(go, tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")

    def refused(*what):
        raise AssertionError("the ring does this")

    async def main():
        if go.engine == "ring":
            monkeypatch.setattr(Engine, "run_in_thread", refused)
            monkeypatch.setattr(Engine, "change_in_thread", refused)
        for buffering in (0, -1):
            async with noria.open(path, "rb+", buffering) as file:
                parts = [bytearray(3), bytearray(), bytearray(4)]
                await file.read(1)
                assert await file.readv(parts) == 7
                assert parts == [b"123", b"", b"4567"]
                assert await file.tell() == 8
                assert await file.readv(parts, 9) == 1
                assert parts == [b"923", b"", b"4567"]
                for part in parts:
                    part.append(0)  # no buffer is exported any more
                assert await file.readv([]) == 0
                assert await file.writev([], 0) == 0
                assert await file.writev([b"89", memoryview(b"a")]) == 3
                assert await file.tell() == 11
                assert await file.writev((bytearray(b"x"), b"yz"), 0) == 3
                with pytest.raises(BufferError):
                    await file.readv([b"constant"], 0)
                with pytest.raises(TypeError):
                    await file.writev(["text"], 0)
            assert path.read_bytes() == b"xyz3456789a"
            path.write_bytes(b"0123456789")
            async with noria.open(path, "ab+", buffering) as file:
                await file.seek(0)
                assert await file.writev([b"a", b"b"]) == 2
                assert await file.tell() == 12
                assert await file.writev([b"."] * 2000) == 1024
            assert path.read_bytes() == b"0123456789ab" + b"." * 1024
            path.write_bytes(b"0123456789")
        a, b = os.pipe()
        async with noria.open(b, "wb") as writer, noria.open(a, "rb") as reader:
            assert await writer.writev([b"one", b"two"]) == 6
            parts = [bytearray(4), bytearray(4)]
            assert await reader.readv(parts) == 6
            assert parts == [b"onet", b"wo\0\0"]

    go(main())


def test_buffers_are_kept_while_they_are_filled():
    """Also if the task that reads was cancelled."""

    async def main():
        ring = FileRing(asyncio.get_running_loop())
        a, b = os.pipe()
        parts = [bytearray(2), bytearray(3)]
        request = ring.readv(a, list(parts), -1)
        ring.flush()
        for part in parts:
            with pytest.raises(BufferError):
                part.clear()
        os.write(b, b"12345")
        ring.flush()
        assert await request.future == 5
        assert parts == [b"12", b"345"]
        for part in parts:
            part.clear()
        ring.close()
        os.close(a)
        os.close(b)

    if not ring_works():
        pytest.skip("io_uring is refused here")
    asyncio.run(main())


def test_a_cancelled_write_has_its_result(go, tmp_path):
    async def main():
        async with noria.open(tmp_path / "file", "wb", 0) as file:
            task = asyncio.ensure_future(file.pwrite(b"x" * 100_000, 0))
            await asyncio.sleep(0)
            task.cancel()
            try:
                written = await task
            except asyncio.CancelledError as error:
                written = getattr(error, "result", None) or 0
            assert os.fstat(file.fileno()).st_size == written

    go(main())


def test_a_write_cancelled_in_the_middle(some):
    """A full pipe: the CancelledError has the count of bytes that were written."""
    if some.engine == "threads":
        pytest.skip("a thread cannot be given up")

    async def main():
        a, b = os.pipe()
        async with noria.open(b, "wb") as file:
            task = asyncio.ensure_future(file.write(b"x" * 1_000_000))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError) as caught:
                await task
        got = 0
        while data := os.read(a, 1 << 20):
            got += len(data)
        os.close(a)
        assert 0 < got < 1_000_000
        assert caught.value.result == got

    some(main())


def test_cancelled_reads_leave_the_position(some, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 4096)

    async def main():
        async with noria.open(path, "rb") as file:
            seen = b""
            for i in range(count(200, 3000)):
                task = asyncio.ensure_future(file.read(5000))
                if i % 2:
                    await asyncio.sleep(0)
                task.cancel()
                try:
                    seen += await task
                except asyncio.CancelledError:
                    continue
            seen += await file.read()
            return seen

    assert some(main()) == path.read_bytes()


def test_many_at_once(go, tmp_path):
    path = tmp_path / "file"
    data = random.Random(1).randbytes(1 << 20)
    path.write_bytes(data)

    async def main():
        async with noria.open(path, "rb") as file:
            places = random.Random(2).choices(range(len(data)), k=600)
            got = await asyncio.gather(*(file.pread(4096, place) for place in places))
            assert got == [data[place : place + 4096] for place in places]
            assert await file.read_many([(place, 4096) for place in places]) == got
            pieces = await asyncio.gather(*(file.read(1000) for _ in range(500)))
            assert b"".join(pieces) == data[:500_000]

    go(main())


def test_readers_do_not_starve_the_loop(some, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100_000)
    turns = 0

    async def turning():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def main():
        task = asyncio.ensure_future(turning())
        async with noria.open(path, "rb") as file:
            # At most 512 reads are made in one turn of the loop.
            for _ in range(10_000):
                await file.pread(4096, 0)
        task.cancel()

    some(main())
    assert turns >= 10


def test_direct(some, tmp_path):
    path = tmp_path / "file"
    data = bytearray(random.Random(3).randbytes(100_001))

    async def main():
        try:
            opened = await noria.open(path, "wb+", direct=True)
        except OSError as error:
            pytest.skip(f"no O_DIRECT here: {error}")
        async with opened as file:
            assert await file.write(data) == len(data)
            await file.flush()
            assert path.read_bytes() == data
            assert await file.pread(10_000, 777) == data[777:10_777]
            assert await file.pwrite(b"q" * 9001, 4000) == 9001
            data[4000:13_001] = b"q" * 9001
            await file.seek(3)
            assert await file.read(5) == data[3:8]
            assert await file.read() == data[8:]
            assert await file.read_many([(1, 2), (99_999, 5)]) == [data[1:3], data[99_999:]]
        assert path.read_bytes() == data
        for mode, more in (("ab", {}), ("r", {}), ("rb", {"buffering": 0})):
            with pytest.raises(ValueError, match="direct=True"):
                await noria.open(path, mode, direct=True, **more)

    some(main())


def test_direct_with_several_buffers(some, tmp_path):
    """Neither their addresses nor their sizes are aligned."""
    path = tmp_path / "file"

    async def main():
        try:
            opened = await noria.open(path, "wb+", direct=True)
        except OSError as error:
            pytest.skip(f"no O_DIRECT here: {error}")
        async with opened as file:
            assert await file.writev([b"one", b"two"]) == 6
            assert await file.tell() == 6
            assert await file.writev([b"T", b"W"], 3) == 2
            parts = [bytearray(2), bytearray(9)]
            assert await file.readv(parts, 1) == 5
            assert parts == [b"ne", b"TWo" + bytes(6)]
            await file.seek(4)
            assert await file.readv(parts) == 2
            assert await file.tell() == 6
            assert parts[0] == b"Wo"

    some(main())


@pytest.mark.parametrize("piece", [0, 1, 2])
@pytest.mark.parametrize("there", [True, False], ids=["pwrite", "write"])
def test_a_cancelled_direct_write_has_the_count_of_all_bytes_written(there, piece, some, tmp_path):
    """It is several writes: before the first whole block, the blocks, and the rest."""
    path = tmp_path / "file"
    before, data = b"b" * 100, b"x" * 150_000

    async def main():
        try:
            file = await noria.open(path, "wb+", direct=True)
        except OSError as error:
            pytest.skip(f"no O_DIRECT here: {error}")
        await file.pwrite(before, 0)
        await file.seek(len(before))
        real = file._write_at
        pieces = 0

        async def write(fd, data, offset):
            nonlocal pieces
            pieces += 1
            if pieces == piece + 1:
                task.cancel()
            return await real(fd, data, offset)

        file._write_at = write
        task = asyncio.ensure_future(file.pwrite(data, 100) if there else file.write(data))
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        written = path.stat().st_size - len(before)
        # A task that is cancelled when its last write is over raises an exception of asyncio's.
        assert getattr(caught.value, "result", len(data)) == written
        assert written >= (4096 - 100 if piece else 0)
        assert await file.tell() == len(before) + (0 if there else written)
        file._write_at = real
        await file.close()
        assert path.read_bytes() == before + data[:written]

    some(main())


def test_a_forgotten_file_warns_and_keeps_what_was_written(some, tmp_path):
    path = tmp_path / "file"

    async def main():
        file = await noria.open(path, "wb")
        await file.write(b"kept")
        files = [file]
        del file
        with pytest.warns(ResourceWarning, match="unclosed file"):
            files.clear()

    some(main())
    assert path.read_bytes() == b"kept"


def test_a_loop_that_ends_with_reads_in_progress():
    """The ring is closed with its loop, with requests in flight."""

    async def main():
        file, task, b = await reading_a_pipe("read")
        task.cancel()
        os.close(b)
        await file.close()

    for _ in range(3):
        asyncio.run(main())


def test_signals_while_files_are_read(some, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"line\n" * 20_000)
    seen = []
    before = signal.signal(signal.SIGUSR1, lambda *what: seen.append(1))
    ended = threading.Event()

    def disturb():
        while not ended.wait(0.001):
            os.kill(os.getpid(), signal.SIGUSR1)

    async def main():
        for _ in range(20):
            async with noria.open(path, "rb") as file:
                assert len(await file.readlines()) == 20_000
            async with noria.open(tmp_path / "copy", "wb") as file:
                await file.write(path.read_bytes())
                await file.fsync()

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        some(main())
    finally:
        ended.set()
        thread.join()
        signal.signal(signal.SIGUSR1, before)
    assert seen
    assert (tmp_path / "copy").read_bytes() == path.read_bytes()


def test_the_environment_is_checked(monkeypatch):
    monkeypatch.setenv("NORIA_FILES", "magic")

    async def main():
        await noria.open("/dev/null")

    with pytest.raises(ValueError, match="NORIA_FILES is 'magic'"):
        asyncio.run(main())


def test_a_cancelled_direct_read_leaves_its_memory_to_the_thread(tmp_path, monkeypatch):
    """Memory that the thread still writes to is neither released nor reused."""
    go = make_runner((LOOPS_AND_ENGINES[-1][0], "threads"), monkeypatch)
    path = tmp_path / "file"
    path.write_bytes(bytes(8192))
    began, end = threading.Event(), threading.Event()
    preadv = os.preadv

    def slow(fd, buffers, offset):
        held = (ctypes.c_char * 4096).from_buffer(buffers[0])  # as the system call holds it
        began.set()
        end.wait(10)
        del held
        return preadv(fd, buffers, offset)

    async def main():
        async with noria.open(path, "rb+", direct=True) as file:
            monkeypatch.setattr(os, "preadv", slow)
            reading = asyncio.ensure_future(file.pread(4096, 0))
            await asyncio.to_thread(began.wait)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            monkeypatch.setattr(os, "preadv", preadv)
            await file.pwrite(b"x" * 4096, 0)
            end.set()
            assert await file.pread(4096, 0) == b"x" * 4096

    go(main())


def test_an_opening_used_as_a_file_says_what_to_write(tmp_path):
    async def main():
        with (
            pytest.raises(TypeError, match=r"async with noria\.open\("),
            noria.open(tmp_path / "a"),
        ):
            pass
        with pytest.raises(AttributeError, match=r"no attribute 'read'.*await noria\.open\("):
            noria.open(tmp_path / "a").read()
        opening = noria.open(tmp_path / "a")
        assert not hasattr(opening, "__wrapped__")
        with pytest.raises(AttributeError, match=r"no attribute '_nothing'$"):
            _ = opening._nothing
        opening.close()

    def tried():
        asyncio.run(main())
        gc.collect()

    # Only of the second: the file that was entered is closed first.
    with pytest.warns(RuntimeWarning, match=r"coroutine 'noria\.open' was never awaited") as said:
        tried()
    assert len(said) == 1
    assert not os.listdir(tmp_path)
