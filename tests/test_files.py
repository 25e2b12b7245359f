"""noria.open, binary: the same as the built-in open, on every loop."""

import asyncio
import io
import os
import random
import signal
import threading

import pytest

import noria
from loops import SEED, count
from ways import WAYS, failure, made, told

MODES = ("rb", "wb", "ab", "xb", "rb+", "wb+", "ab+", "xb+")


@pytest.fixture(params=WAYS, ids="-".join)
def go(request, monkeypatch):
    return made(request.param, monkeypatch)


@pytest.fixture(params=[WAYS[-1], WAYS[2]], ids="-".join)
def some(request, monkeypatch):
    """A few of the loops, for what does not depend on them much."""
    return made(request.param, monkeypatch)


def test_every_method(go, tmp_path):
    path = tmp_path / "file"

    async def main():
        async with noria.open(path, "wb+") as file:
            assert await file.write(b"one\ntwo\nthree") == 13
            assert await file.tell() == 13
            assert path.read_bytes() == b""  # gathered
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
    """Method and arguments, at random."""
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
                        expected = failure(error)
                    assert await told(getattr(file, name)(*arguments)) == expected, history
                    if "a" in mode and buffering and name.startswith("write"):
                        # The built-in's idea of where it stands is wrong until it is told.
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
        return await told(noria.open(name, mode))

    assert some(main()) == failure(expected.value)


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
            # What comes after is not lost with the read that was given up.
            await writer.write(b"one\ntwo\nrest")
            await writer.flush()
            assert await reader.readline() == b"one\n"
            assert await reader.read1() == b"two\nrest"
            await writer.write(b"end")
            await writer.close()
            assert await reader.read() == b"end"

    go(main())


def test_a_cancelled_write_says_what_came_of_it(go, tmp_path):
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
    """A pipe that is full: what fits is in it, and the error says how much that is."""
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
            for _ in range(2000):
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


def test_a_loop_that_ends_with_reads_under_way():
    """The ring goes with its loop, whatever is still under way."""

    async def main():
        a, b = os.pipe()
        file = await noria.open(a, "rb")
        task = asyncio.ensure_future(file.read())
        await asyncio.sleep(0.01)
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

    with pytest.raises(ValueError, match="ring or threads"):
        asyncio.run(main())
