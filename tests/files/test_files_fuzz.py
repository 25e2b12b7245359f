"""Random operations on files of noria.open and of the built-in open have the same outcome."""

from __future__ import annotations

import contextlib
import errno
import inspect
import os
import random
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import noria
from noria import os as noria_os
from noria.files.engine import current
from support.file_engines import LOOPS_AND_ENGINES, make_runner, ring_works
from support.loops import ORACLE, SEED, count

SEEDS = count(40, 1000)

Go = Callable[[Any], Any]


@pytest.fixture(
    params=[way for way in LOOPS_AND_ENGINES if way[0] in ("epoll", "io_uring", ORACLE)],
    ids="-".join,
)
def go(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Go:
    return make_runner(request.param, monkeypatch)


async def outcome(file: Any, name: str, *arguments: Any) -> Any:
    """A method's result, or its exception as a value that can be compared."""
    try:
        result = getattr(file, name)(*arguments)
        return await result if inspect.isawaitable(result) else result
    except OSError as error:
        return OSError, error.errno
    except TypeError:
        return TypeError
    except ValueError as error:
        return ValueError if not isinstance(error, UnicodeError) else type(error)


def text_of(dice: random.Random, size: int) -> str:
    letters = ["a", "b", "\n", "é", "☃", "\r", "\r\n", "😀", "words "]
    return "".join(dice.choices(letters, k=size))


CODECS = ["utf-8", "utf-8", "ascii", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "shift_jis"]
BAD = [b"\xff", b"\xe2\x82", b"\x80", b"\xd8\x00", b"\0", b"\x81"]


@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
def test_text_that_cannot_be_decoded(go: Go, tmp_path: Path, large: bool) -> None:
    """A decoding error loses the same bytes as in the built-in file.

    The built-in decodes 8 KiB at a time. In larger files only reads of less are compared.
    """
    path = tmp_path / "file"

    async def one(dice: random.Random) -> None:
        codec, newline = dice.choice(CODECS), dice.choice([None, "", "\n", "\r", "\r\n"])
        data = b""
        while dice.random() < 0.8:
            size = dice.choice([10, 3000, 20_000] if large else [0, 1, 10, 300])
            data += text_of(dice, size).encode(codec, "ignore") + dice.choice([b"", *BAD])
        if not large:
            data = data[:8192]
        path.write_bytes(data)
        there = open(path, encoding=codec, newline=newline)  # noqa: SIM115
        here = await noria.open(path, encoding=codec, newline=newline)
        done = []
        for _ in range(dice.randrange(60)):
            operation: tuple[Any, ...] = dice.choice(
                [
                    ("read", dice.randrange(1, 2000)),
                    ("read", dice.randrange(1, 30)),
                    ("readline",),
                    ("readline", dice.randrange(1, 50)),
                    ("readlines", dice.randrange(1, 100)),
                    *([] if large else [("read",), ("seek", 0)]),
                ]
            )
            done.append(operation)
            expected = await outcome(there, *operation)
            assert await outcome(here, *operation) == expected, (codec, newline, len(data), done)
        there.close()
        await here.close()

    for seed in range(SEEDS):
        go(one(random.Random(f"{SEED}text{seed}")))


BINARY = ["rb", "wb", "ab", "xb", "rb+", "wb+", "ab+"]


def binary_operation(dice: random.Random) -> tuple[Any, ...]:
    size = dice.choice([0, 1, 2, 7, 100, 5000, 9000, 70_000])
    return dice.choice(
        [
            ("read", size),
            ("read", -1),
            ("readline",),
            ("readline", size),
            ("readlines", dice.choice([-1, 0, 1, 50, None])),
            ("write", dice.randbytes(size)),
            ("write", b"line\n" * dice.randrange(5)),
            ("writelines", [dice.randbytes(dice.randrange(9)) for _ in range(dice.randrange(4))]),
            ("seek", dice.randrange(100_000)),
            ("seek", dice.randrange(-100, 100), os.SEEK_CUR),
            ("seek", dice.randrange(-100, 10), os.SEEK_END),
            ("seek", dice.randrange(100), dice.choice([7, -1, 99])),
            ("tell",),
            ("flush",),
            ("truncate", dice.choice([None, 0, size])),
            ("readable",),
            ("writable",),
        ]
    )


@pytest.mark.parametrize("buffering", [-1, 0, 16, 4096])
def test_binary_files(go: Go, tmp_path: Path, buffering: int) -> None:
    """Every result and the content at the end are those of the built-in file."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"

    async def one(dice: random.Random) -> None:
        mode = dice.choice(BINARY)
        start = b"".join(dice.choices([b"a", b"\n", b"words of a line\n"], k=dice.randrange(9000)))
        for path in (ours, theirs):
            path.unlink(missing_ok=True)
            if "x" not in mode:
                path.write_bytes(start)
        there = open(theirs, mode, buffering)  # noqa: SIM115
        here = await noria.open(ours, mode, buffering)
        done = []
        for _ in range(dice.randrange(50)):
            operation = binary_operation(dice)
            done.append(operation)
            expected = await outcome(there, *operation)
            got = await outcome(here, *operation)
            assert got == expected, (mode, [str(each)[:30] for each in done[-4:]])
            if mode[0] == "a":  # the position of unflushed bytes differs
                await outcome(there, "flush")
                await outcome(here, "flush")
        await outcome(there, "close")
        await outcome(here, "close")
        assert ours.read_bytes() == theirs.read_bytes(), mode
        operation = binary_operation(dice)
        if operation[0] not in ("readable", "writable", "readline", "seek"):
            assert await outcome(here, *operation) in (ValueError, (OSError, None)), operation

    for seed in range(SEEDS):
        go(one(random.Random(f"{SEED}binary{buffering}{seed}")))


@contextlib.contextmanager
def limited(size: int) -> Iterator[None]:
    """Limit the size of files: setrlimit(2)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_unbuffered_files_at_the_limit_of_their_size(go: Go, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"

    async def one(dice: random.Random) -> None:
        mode = dice.choice(["wb", "rb+", "ab"])
        for path in (ours, theirs):
            path.write_bytes(b"0123456789" * 5)
        there = open(theirs, mode, 0)  # noqa: SIM115
        here = await noria.open(ours, mode, 0)
        done = []
        for _ in range(dice.randrange(30)):
            limit, operation = dice.randrange(200), binary_operation(dice)
            done.append((limit, str(operation)[:30]))
            with limited(limit):
                expected = await outcome(there, *operation)
                got = await outcome(here, *operation)
            assert got == expected, (mode, done[-4:])
            data, offset = dice.randbytes(dice.randrange(100)), dice.randrange(250)
            try:
                with limited(limit):
                    written = os.pwrite(there.fileno(), data, offset)
            except OSError as error:
                expected = OSError, error.errno
            else:
                # After a short write, pwrite of a noria file writes the rest, which fails.
                expected = written if written == len(data) else (OSError, errno.EFBIG)
            with limited(limit):
                assert await outcome(here, "pwrite", data, offset) == expected
        there.close()
        await here.close()
        assert ours.read_bytes() == theirs.read_bytes()

    for seed in range(SEEDS):
        go(one(random.Random(f"{SEED}limit{seed}")))


@pytest.mark.parametrize("text", [False, True], ids=["binary", "text"])
def test_bytes_kept_at_the_limit_are_written_when_it_is_raised(
    go: Go, tmp_path: Path, text: bool
) -> None:
    """All bytes that a write accepted are in the file, once and in order, despite failures."""
    path = tmp_path / "file"

    async def one(dice: random.Random) -> None:
        options: dict[str, Any] = {"encoding": "ascii", "newline": "\n"} if text else {}
        file: Any = await noria.open(path, "w" if text else "wb", 64, **options)
        taken = b""
        for _ in range(dice.randrange(60)):
            data = bytes(dice.choices(b"abc\n", k=dice.randrange(65)))
            operation = dice.choice([("write", data.decode() if text else data), ("flush",)])
            limit = dice.choice([0, len(taken) // 2, len(taken) + 10, 1 << 20])
            with limited(limit):
                got = await outcome(file, *operation)
            if got == (OSError, errno.EFBIG):
                assert path.stat().st_size >= min(limit, len(taken)) - 64
            elif operation[0] == "write":
                assert got == len(data)
                taken += data
            assert taken.startswith(path.read_bytes())
        if dice.random() < 0.5:
            await file.close()
            assert path.read_bytes() == taken
        else:
            with limited(len(taken) // 2):
                got = await outcome(file, "close")
            assert file.closed
            assert got == (None if path.read_bytes() == taken else (OSError, errno.EFBIG))
            assert taken.startswith(path.read_bytes())

    for seed in range(SEEDS):
        go(one(random.Random(f"{SEED}kept{text}{seed}")))


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held: list[int] = []
    highest = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                held.append(os.open("/dev/null", os.O_RDONLY))
        yield
    finally:
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("mode", ["r", "rb", "wb", "a", "xb", "rb+"])
def test_opening_without_descriptors(go: Go, tmp_path: Path, mode: str) -> None:
    """It fails as the built-in open does; open files keep working, and later ones open."""
    path = tmp_path / "file"
    path.write_bytes(b"content")
    new = tmp_path / "new"
    target = new if "x" in mode else path

    async def main() -> None:
        async with noria.open(path, "rb+") as already:
            with no_descriptors():
                with pytest.raises(OSError, match="Too many open files") as expected:
                    open(target, mode)  # noqa: SIM115
                with pytest.raises(OSError, match="Too many open files") as caught:
                    await noria.open(target, mode)
                assert caught.value.errno == expected.value.errno == errno.EMFILE
                assert os.fspath(caught.value.filename) == str(target)
                assert await already.pread(7, 0) == b"content"
                assert await already.write(b"CON") == 3
                await already.fsync()
            assert path.read_bytes() == b"CONtent"
            assert not new.exists()
            async with noria.open(target, mode) as file:
                assert file.name == target or file.name == str(target)

    go(main())


def test_the_first_file_of_a_loop_without_descriptors(tmp_path: Path) -> None:
    """Without a descriptor for the ring, threads are used until there is one."""

    async def main(works: bool) -> None:
        with no_descriptors(), pytest.raises(OSError, match="Too many open files"):
            await noria.open(tmp_path / "file", "wb")
        async with noria.open(tmp_path / "file", "wb") as file:
            await file.write(b"content")
        assert current().name == ("ring" if works else "threads")

    async def at_once() -> None:
        with no_descriptors():
            await noria_os.mkdir(tmp_path / "d")
        assert current().name == ("ring" if works else "threads")

    works = ring_works()
    noria.run(main(works))
    noria.run(at_once())
    assert (tmp_path / "file").read_bytes() == b"content"
