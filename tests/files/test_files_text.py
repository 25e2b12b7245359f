"""noria.open in text mode behaves as the built-in open."""

import asyncio
import codecs
import io
import random

import pytest

import noria
from support.file_engines import LOOPS_AND_ENGINES, describe_error, make_runner, result_or_error
from support.loops import SEED, count
from support.running import run as run_source

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "shift_jis")
NEWLINES = (None, "", "\n", "\r", "\r\n")
LETTERS = "ab\n\r\r\n é"


@pytest.fixture(params=[LOOPS_AND_ENGINES[2], LOOPS_AND_ENGINES[-1]], ids="-".join)
def go(request, monkeypatch):
    return make_runner(request.param, monkeypatch)


def text_of(dice, encoding, size):
    more = {"latin-1": "ÿ", "cp1252": "€", "shift_jis": "日本"}.get(encoding, "日𝄞")
    letters = (LETTERS + more).replace("é", "" if encoding == "shift_jis" else "é")
    return "".join(dice.choices([*letters, "\r\n"], k=size))


def operations(dice, encoding):
    text = text_of(dice, encoding, dice.choice((0, 1, 9, 300)))
    return dice.choice(
        [
            ("read", dice.choice((0, 1, 2, 7, 90, -1))),
            ("read",),
            ("readline",),
            ("readline", dice.choice((0, 1, 5))),
            ("readlines",),
            ("readlines", 30),
            ("write", text),
            ("writelines", [text, "x\n"]),
            ("write", b"bytes"),
            ("flush",),
            ("tell-seek",),
            ("tell-seek",),
            ("seek", 0),
            ("seek", 0, 2),
            ("seek", -1),
            ("seek", 3, 1),
            ("seek", 0, 7),
            ("truncate",),
        ]
    )


@pytest.mark.parametrize("newline", NEWLINES, ids=repr)
@pytest.mark.parametrize("mode", ["r", "w", "a", "x", "r+", "w+", "a+"])
def test_the_same_as_the_built_in(mode, newline, go, tmp_path):
    """Both seek between reading and writing, because they read ahead by different sizes."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    dice = random.Random(f"{mode}{newline}{SEED}")

    async def once(encoding):
        start = text_of(dice, encoding, dice.choice((0, 5, 400))).encode(encoding)
        for path in (ours, theirs):
            path.unlink(missing_ok=True)
            if mode != "x":
                path.write_bytes(start)
        history = [(mode, encoding, newline, start)]
        marks = []
        wrote = lost = False
        with open(theirs, mode, encoding=encoding, newline=newline) as oracle:
            async with noria.open(ours, mode, encoding=encoding, newline=newline) as file:
                for _ in range(20):
                    name, *arguments = operations(dice, encoding)
                    if name.startswith(("write", "read", "truncate")):
                        if name.startswith("read") is wrote:
                            where = dice.choice((0, 2))
                            history.append(("seek", [0, where]))
                            oracle.seek(0, where)
                            await file.seek(0, where)
                            marks.clear()
                            lost = False
                        wrote = not name.startswith("read")
                    history.append((name, arguments))
                    if name == "tell-seek":
                        # The numbers differ; the positions are the same.
                        if not marks or dice.random() < 0.5:
                            if not lost:
                                marks.append((oracle.tell(), await file.tell()))
                        else:
                            there, here = dice.choice(marks)
                            oracle.seek(there)
                            await file.seek(here)
                            wrote = lost = False
                            if mode == "r":
                                assert oracle.read(3) == await file.read(3), history
                        continue
                    if wrote:
                        marks.clear()
                    try:
                        expected = getattr(oracle, name)(*arguments)
                    except Exception as error:
                        expected = describe_error(error)
                    got = await result_or_error(getattr(file, name)(*arguments))
                    if "UnicodeDecodeError" in (expected if isinstance(expected, tuple) else ()):
                        # A partly overwritten file cannot be decoded. The built-in decodes even
                        # to read no characters. Both positions are undefined now.
                        assert got == expected or arguments == [0], history
                        break
                    assert got == expected, history
                    if name == "readlines":
                        # After an unfinished iteration the built-in's tell() raises. After a flush
                        # it no longer does, without a valid position: it then decodes memory beyond
                        # its buffer. A seek repairs that.
                        try:
                            oracle.tell()
                        except OSError:
                            lost = True
                    elif name == "seek" and not isinstance(got, tuple):
                        lost = False
                    # The built-in's tell() forgets the line endings.
                    if (name, arguments) == ("read", []) and not marks:
                        assert file.newlines == oracle.newlines, history
        assert ours.read_bytes() == theirs.read_bytes(), history

    async def main():
        for _ in range(count(2, 60)):
            for encoding in ENCODINGS:
                await once(encoding)

    go(main())


@pytest.mark.parametrize("newline", NEWLINES, ids=repr)
def test_seek_returns_to_every_position(newline, go, tmp_path):
    path = tmp_path / "file"
    dice = random.Random(f"7{SEED}")

    async def main():
        for encoding in ENCODINGS:
            path.write_bytes(text_of(dice, encoding, 120).encode(encoding))
            with open(path, encoding=encoding, newline=newline) as oracle:
                whole = oracle.read()
            async with noria.open(path, encoding=encoding, newline=newline) as file:
                marks = []
                for i in range(len(whole) + 1):
                    marks.append(await file.tell())
                    assert await file.read(1) == whole[i : i + 1]
                for i in dice.sample(range(len(marks)), len(marks)):
                    assert await file.seek(marks[i]) == marks[i]
                    assert await file.tell() == marks[i]
                    assert await file.read() == whole[i:], (encoding, i)

    go(main())


def test_positions_are_offsets_in_bytes(go, tmp_path):
    path = tmp_path / "file"
    path.write_text("naïve\n" * 50_000, encoding="utf-8")

    async def main():
        async with noria.open(path, encoding="utf-8") as file:
            place = 0
            for i in range(50_000):
                place += len((await file.readline()).encode())
                if i % 4999 == 0:
                    assert await file.tell() == place
            await file.seek(7 * 40_000)
            assert await file.read() == "naïve\n" * 10_000

    go(main())


@pytest.mark.parametrize("newline", NEWLINES, ids=repr)
def test_lines_across_blocks(newline, go, tmp_path):
    path = tmp_path / "file"
    dice = random.Random(f"5{SEED}")
    parts = []
    for _ in range(120):
        parts.append("é" * dice.choice((0, 1, 3000, 70_000 if dice.random() < 0.1 else 9)))
        parts.append(dice.choice(("\n", "\r", "\r\n")))
    path.write_bytes("".join(parts).encode())
    with open(path, encoding="utf-8", newline=newline) as oracle:
        expected = list(oracle)

    async def main():
        async with noria.open(path, encoding="utf-8", newline=newline) as file:
            assert [line async for line in file] == expected
            await file.seek(0)
            assert await file.readlines() == expected

    go(main())


@pytest.mark.parametrize("errors", ["strict", "replace", "ignore", "surrogateescape"])
def test_what_cannot_be_decoded_or_encoded(errors, go, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"ab\xff\xfe\xe2\x82")

    async def main():
        async with noria.open(path, "r+", encoding="utf-8", errors=errors) as file:
            with open(path, encoding="utf-8", errors=errors) as oracle:
                try:
                    expected = oracle.read()
                except ValueError as error:
                    expected = describe_error(error)
            assert await result_or_error(file.read()) == expected
            await file.seek(0, 2)
            try:
                expected = len("\udc80".encode("utf-8", errors)) and 1
            except ValueError as error:
                expected = describe_error(error)
            if errors != "ignore":
                assert await result_or_error(file.write("\udc80")) == expected

    go(main())


def test_buffering_and_attributes(go, tmp_path):
    path = tmp_path / "file"

    async def main():
        async with noria.open(path, "w", 1, "latin-1", "replace", "\r\n") as file:
            assert (file.name, file.mode, file.encoding) == (str(path), "w", "latin-1")
            assert (file.errors, file.line_buffering, file.newlines) == ("replace", True, None)
            assert await file.write("one") == 3
            assert path.read_bytes() == b""
            await file.write("\nab")
            assert path.read_bytes() == b"one\r\nab"
            await file.reconfigure(line_buffering=False, write_through=True, newline="\r")
            await file.write("\n€")
            assert path.read_bytes() == b"one\r\nab\r?"
            await file.fsync()
            await file.fdatasync()
            assert not await file.isatty()
            assert await file.writable()
            assert await file.seekable()
            assert not file.readable()
            with pytest.raises(io.UnsupportedOperation):
                await file.read()
        assert file.closed
        with pytest.raises(ValueError, match="closed"):
            await file.write("x")
        async with noria.open(path) as file:
            await file.read(1)
            with pytest.raises(io.UnsupportedOperation, match="has been read"):
                await file.reconfigure(encoding="utf-8")
            binary = file.detach()
            with pytest.raises(ValueError, match="detached"):
                await file.read()
            await binary.close()
            file.buffer = binary

    go(main())


def test_the_mark_of_the_byte_order_is_written_once(go, tmp_path):
    path = tmp_path / "file"

    async def main():
        for _ in range(3):
            async with noria.open(path, "a", encoding="utf-16") as file:
                await file.write("é")

    go(main())
    assert path.read_bytes().count(codecs.BOM_UTF16) == 1
    assert path.read_text(encoding="utf-16") == "ééé"


def test_tell_after_writing_at_the_end_from_elsewhere(go, tmp_path):
    """Appends go to the end, whatever the position was."""
    path = tmp_path / "file"
    path.write_text("é日", encoding="utf-8")

    async def main():
        async with noria.open(path, "a+", encoding="utf-8") as file:
            await file.seek(0)
            await file.write("x")
            assert await file.tell() == 6
            await file.write("yz")
            place = await file.seek(0, 1)
            assert place == 8
            await file.seek(0)
            assert await file.read() == "é日xyz"
            await file.seek(place)
            assert await file.read() == ""

    go(main())


def test_a_cancelled_reader_loses_nothing(go, tmp_path):
    path = tmp_path / "file"
    text = "".join(f"line {i} é\n" for i in range(40_000))
    path.write_text(text, encoding="utf-8")

    async def main():
        lines = []
        async with noria.open(path, encoding="utf-8") as file:
            for i in range(300):
                task = asyncio.ensure_future(file.readline() if i % 3 else file.read(5000))
                if i % 2:
                    await asyncio.sleep(0)
                task.cancel()
                try:
                    lines.append(await task)
                except asyncio.CancelledError:
                    continue
            lines.append(await file.read())
        return "".join(lines)

    assert go(main()) == text


@pytest.mark.parametrize("utf8", ["0", "1"])
def test_the_encoding_is_the_built_ins(utf8, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"")
    source = f"""
    import noria
    async def main():
        for encoding in (None, "locale"):
            async with noria.open({str(path)!r}, encoding=encoding) as file:
                print(file.encoding == open({str(path)!r}, encoding=encoding).encoding)
    noria.run(main())
    """
    more = {"PYTHONUTF8": utf8, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
    assert run_source(source, **more).split() == ["True", "True"]


def test_after_a_decoding_error_it_continues_as_the_built_in_does(go, tmp_path):
    """Text before and after the 8 KiB with the error is returned."""
    path = tmp_path / "file"
    good = b"a line\n" * 1500
    path.write_bytes(good + b"\xff bad\n" + b"another line\n" * 3000 + b"\xff" + good)

    async def main():
        for name, arguments in (("readline", ()), ("read", (7,)), ("read", (1000,))):
            async with noria.open(path, encoding="utf-8") as file:
                with open(path, encoding="utf-8") as there:
                    errors = 0
                    while True:
                        try:
                            expected = getattr(there, name)(*arguments)
                        except UnicodeDecodeError:
                            errors += 1
                            with pytest.raises(UnicodeDecodeError):
                                await getattr(file, name)(*arguments)
                            continue
                        assert await getattr(file, name)(*arguments) == expected
                        if not expected:
                            break
                    assert errors == 2
                    assert await file.tell() == path.stat().st_size

    go(main())
