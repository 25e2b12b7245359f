"""Closing a file with unflushed bytes: one chain of requests writes and closes; nothing is lost."""

from __future__ import annotations

import asyncio
import errno
import os
import resource

import pytest

import noria
from support.file_engines import LOOPS_AND_ENGINES, make_runner


@pytest.fixture(params=LOOPS_AND_ENGINES, ids="-".join)
def go(request, monkeypatch):
    return make_runner(request.param, monkeypatch)


def is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_what_was_written_is_there(go, tmp_path):
    async def main():
        for mode, there in (("wb", b"new"), ("ab", b"oldnew"), ("rb+", b"new"), ("xb", b"new")):
            path = tmp_path / mode
            if mode != "xb":
                path.write_bytes(b"old")
            file = await noria.open(path, mode)
            fd = file.fileno()
            await file.write(b"new")
            await file.close()
            assert path.read_bytes() == there
            assert file.closed
            assert not is_open(fd)
            await file.close()
            with pytest.raises(ValueError, match="closed file"):
                await file.write(b"more")

    go(main())


def test_more_at_once_than_the_ring_has_room_for(go, tmp_path):
    count = 400

    async def write(number):
        async with noria.open(tmp_path / str(number), "wb") as file:
            await file.write(b"%d" % number * 10)

    async def main():
        await asyncio.gather(*map(write, range(count)))

    go(main())
    assert all((tmp_path / str(n)).read_bytes() == b"%d" % n * 10 for n in range(count))


def test_a_pipe_and_a_descriptor_that_stays_open(go, tmp_path):
    async def main():
        out, into = os.pipe()
        file = await noria.open(into, "wb")
        await file.write(b"hello")
        await file.close()
        assert not is_open(into)
        assert os.read(out, 10) == b"hello"
        os.close(out)
        fd = os.open(tmp_path / "mine", os.O_WRONLY | os.O_CREAT)
        file = await noria.open(fd, "wb", closefd=False)
        await file.write(b"hello")
        await file.close()
        assert is_open(fd)
        os.close(fd)
        assert (tmp_path / "mine").read_bytes() == b"hello"

    go(main())


def test_a_disk_that_takes_nothing(go):
    async def main():
        file = await noria.open("/dev/full", "wb")
        fd = file.fileno()
        await file.write(b"hello")
        with pytest.raises(OSError, match="No space") as caught:
            await file.close()
        assert caught.value.errno == errno.ENOSPC
        assert file.closed
        assert not is_open(fd)

    go(main())


def test_a_disk_that_takes_a_part(go, tmp_path):
    """RLIMIT_FSIZE, setrlimit(2): the first write is short, the second fails."""
    path = tmp_path / "file"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    async def main():
        file = await noria.open(path, "wb")
        fd = file.fileno()
        await file.write(bytes(10_000))
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, hard))
        try:
            with pytest.raises(OSError, match="too large") as caught:
                await file.close()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert caught.value.errno == errno.EFBIG
        assert file.closed
        assert not is_open(fd)
        assert path.stat().st_size == 6000

    go(main())


@pytest.mark.parametrize("buffering", [0, -1])
@pytest.mark.parametrize("pipe", [False, True])
def test_cancelled_while_another_operation_uses_the_descriptor(tmp_path, pipe, buffering):
    """The descriptor's number must not be reused before that operation has ended."""

    async def main():
        out = -1
        if pipe:
            out, into = os.pipe()
            file = await noria.open(into, "wb", buffering=buffering)
        else:
            file = await noria.open(tmp_path / "file", "wb", buffering=buffering)
        fd = file.fileno()
        begun, gate = asyncio.Event(), asyncio.Event()
        write = file._engine.write

        async def slow(*args):
            begun.set()
            await gate.wait()
            return await write(*args)

        file._engine.write = slow
        try:
            await file.write(b"hello") if buffering else None
            writing = asyncio.create_task(file.flush() if buffering else file.write(b"hello"))
            await begun.wait()
            closing = asyncio.create_task(file.close())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            closing.cancel()
            for _ in range(5):
                await asyncio.sleep(0)
            assert is_open(fd)
            assert closing.done() is pipe  # a pipe, which may block for long
        finally:
            gate.set()
            del file._engine.write
        await writing
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert file.closed
        assert not is_open(fd)
        if pipe:
            assert os.read(out, 10) == b"hello"
            os.close(out)
        else:
            assert (tmp_path / "file").read_bytes() == b"hello"

    noria.run(main())


@pytest.mark.parametrize("turns", range(4))
def test_a_cancelled_close_writes_everything_and_closes(go, tmp_path, turns):
    path = tmp_path / "file"

    async def main():
        file = await noria.open(path, "wb")
        fd = file.fileno()
        await file.write(b"hello")
        closing = asyncio.create_task(file.close())
        for _ in range(turns):
            await asyncio.sleep(0)
        cancelled = closing.cancel()
        if turns == 0:  # it was cancelled before it started
            with pytest.raises(asyncio.CancelledError):
                await closing
            assert is_open(fd)
            await file.close()
        elif cancelled:
            with pytest.raises(asyncio.CancelledError):
                await closing
        assert file.closed
        assert not is_open(fd)
        assert path.read_bytes() == b"hello"

    go(main())


def test_writing_during_the_close_raises(go, tmp_path):
    async def main():
        file = await noria.open(tmp_path / "file", "wb")
        await file.write(b"hello")
        closing = asyncio.create_task(file.close())
        await asyncio.sleep(0)
        with pytest.raises(ValueError, match="closed file"):
            await file.write(b"more")
        await file.close()
        await closing
        assert (tmp_path / "file").read_bytes() == b"hello"

    go(main())


class Late:
    """A ring that cancels a task after its request is done and before the task runs."""

    def __init__(self, ring):
        self.ring = ring
        self.task = None

    def __getattr__(self, name):
        def make_request(*arguments, **options):
            answer = getattr(self.ring, name)(*arguments, **options)
            future = getattr(answer, "future", answer)
            if isinstance(future, asyncio.Future) and self.task is not None:
                task, self.task = self.task, None
                future.add_done_callback(lambda _: task.cancel())
            return answer

        return make_request


@pytest.mark.parametrize("what", ["close", "flush", "write"])
def test_cancelled_when_it_was_done_nothing_is_done_twice(go, tmp_path, what):
    if go.engine != "ring":
        pytest.skip("it has no ring")
    path, other = tmp_path / "file", tmp_path / "other"
    other.write_bytes(b"of another")

    async def main():
        file = await noria.open(path, "ab")
        fd = file.fileno()
        engine = file._engine
        engine.ring = late = Late(engine.ring)
        try:
            if what == "write":
                doing = asyncio.create_task(file.write(bytes(100_000)))
                size = 100_000
            else:
                await file.write(b"hello")
                doing = asyncio.create_task(getattr(file, what)())
                size = 5
            late.task = doing
            with pytest.raises(asyncio.CancelledError) as caught:
                await doing
        finally:
            engine.ring = late.ring
        if what == "write":
            assert caught.value.result == size
        with other.open("rb+") as another:  # may reuse the number
            if what != "close":
                assert is_open(fd)
                await file.close()
            assert file.closed
            assert path.stat().st_size == size
            os.fstat(another.fileno())
        assert other.read_bytes() == b"of another"

    go(main())


def test_cancelled_when_it_was_open_it_is_closed(go, tmp_path):
    if go.engine != "ring":
        pytest.skip("it has no ring")
    path = tmp_path / "file"
    path.touch()

    async def main():
        async with noria.open(path, "rb") as file:
            engine = file._engine
            before = len(os.listdir("/proc/self/fd"))
            engine.ring = late = Late(engine.ring)
            try:
                late.task = opening = asyncio.create_task(engine.open(path, os.O_RDONLY))
                with pytest.raises(asyncio.CancelledError):
                    await opening
            finally:
                engine.ring = late.ring
            assert len(os.listdir("/proc/self/fd")) == before

    go(main())


def test_a_pipe_that_takes_nothing_can_be_given_up(go):
    async def main():
        out, into = os.pipe()
        os.set_blocking(into, False)
        while True:
            try:
                os.write(into, bytes(4096))
            except BlockingIOError:
                break
        os.set_blocking(into, True)
        file = await noria.open(into, "wb")
        await file.write(b"hello")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(file.close(), 0.05)
        assert not is_open(into)
        os.close(out)

    if go.engine != "ring":
        pytest.skip("a thread cannot be given up")
    go(main())


def test_a_refused_request_is_raised_and_the_bytes_are_written(go, tmp_path, monkeypatch):
    path = tmp_path / "file"

    async def main():
        file = await noria.open(path, "wb")
        await file.write(b"hello")

        async def busy(*_):
            raise BlockingIOError(errno.EAGAIN, "of the test")

        with monkeypatch.context() as patched:
            patched.setattr(file._engine, "write_and_close", busy)
            with pytest.raises(BlockingIOError):
                await file.close()
        assert file.closed
        assert path.read_bytes() == b"hello"  # written without the ring's chain

    go(main())


def test_a_second_close_waits_for_the_first(go, tmp_path):
    async def main():
        file = await noria.open(tmp_path / "file", "wb")
        await file.write(b"hello")
        first = asyncio.create_task(file.close())
        await asyncio.sleep(0)
        await file.close()
        assert (tmp_path / "file").read_bytes() == b"hello"
        await first

    go(main())


OPERATIONS = {
    "read": ("read",),
    "readline": ("readline",),
    "readlines": ("readlines",),
    "write": ("write", b"x"),
    "writelines": ("writelines", [b"x", b"y"]),
    "truncate": ("truncate", 10),
    "fsync": ("fsync",),
    "fdatasync": ("fdatasync",),
    "pread": ("pread", 3_000_000, 0),  # above the limit of cached reads in a turn
    "pwrite": ("pwrite", b"x", 0),
    "readv": ("readv", [bytearray(3)]),
    "writev": ("writev", [b"x"]),
    "read_many": ("read_many", [(0, 3)]),
    "seek": ("seek", 1),
    "flush": ("flush",),
}


@pytest.mark.parametrize("buffering", [-1, 0])
@pytest.mark.parametrize("name", OPERATIONS)
def test_what_begins_before_ends_and_what_begins_after_is_refused(go, tmp_path, buffering, name):
    """No operation uses a closed descriptor: no EBADF."""
    path = tmp_path / "file"
    method, *arguments = OPERATIONS[name]

    async def main():
        path.write_bytes(b"line\n" * 1000)
        file = await noria.open(path, "rb+", buffering)
        operation = getattr(file, method)
        before = [asyncio.ensure_future(operation(*arguments)) for _ in range(2)]
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(file.close())
        between = asyncio.ensure_future(operation(*arguments))
        found = await asyncio.gather(*before, between, return_exceptions=True)
        several = name in ("readlines", "writelines")  # operations; the file is closed between them
        for result in () if several else found[:2]:
            assert not isinstance(result, Exception)
        assert not any(isinstance(result, OSError) for result in found)
        await closing
        with pytest.raises(ValueError, match="closed file"):
            await operation(*arguments)

    go(main())


@pytest.mark.parametrize("cancelled", [False, True])
@pytest.mark.parametrize("buffering", [-1, 0])
def test_the_descriptor_stays_open_while_it_is_read(
    go, tmp_path, monkeypatch, buffering, cancelled
):
    """Otherwise the number could be reused before the thread uses it."""
    (tmp_path / "file").write_bytes(b"content")

    async def main():
        file = await noria.open(tmp_path / "file", "rb", buffering)
        engine, fd, gate = file._engine, file.fileno(), asyncio.Event()
        read = engine.read

        async def slow(*arguments):
            await gate.wait()
            return await read(*arguments)

        with monkeypatch.context() as patched:
            patched.setattr(engine, "read", slow)
            reading = asyncio.ensure_future(file.pread(3_000_000, 0))
            await asyncio.sleep(0)
            closing = asyncio.ensure_future(file.close())
            for _ in range(5):
                await asyncio.sleep(0)
            assert file.closed
            assert not closing.done()
            assert is_open(fd)
            with pytest.raises(ValueError, match="closed file"):
                await file.pread(3, 0)
            if cancelled:
                closing.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await closing
                assert is_open(fd)
            gate.set()
            assert await reading == b"content"
            if not cancelled:
                await closing
            assert not is_open(fd)

    go(main())


def test_where_a_file_stands_after_a_short_append(go, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    async def main():
        for buffering in (0, 4):
            (tmp_path / "file").write_bytes(bytes(50))
            async with noria.open(tmp_path / "file", "ab", buffering) as file:
                resource.setrlimit(resource.RLIMIT_FSIZE, (60, hard))
                try:
                    if buffering:
                        with pytest.raises(OSError, match="too large"):
                            await file.write(bytes(20))
                    else:
                        assert await file.write(bytes(20)) == 10
                finally:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
                assert await file.tell() == 60

    go(main())
