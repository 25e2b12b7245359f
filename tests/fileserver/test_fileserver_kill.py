"""Acknowledged uploads survive SIGKILL at any moment, and no file is ever partial."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from noria.fileserver.root import Root
from noria.fileserver.stale_files import remove_stale
from support.loops import count
from support.running import finish, start

STORING = """
    import asyncio, hashlib, os, random, signal, sys, time

    import noria
    from noria.fileserver.service import FileService

    async def chunks(data):
        for at in range(0, len(data), 65536):
            yield data[at:at + 65536]
            await asyncio.sleep(0)

    async def client(service, which, numbers, said):
        for number in range(1_000_000):
            data = numbers.randbytes(numbers.choice([0, 10, 5000, 200_000, 1_500_000]))
            data += hashlib.sha256(data).digest()  # each file ends in its own digest
            name = f"{which}-{number}" if number % 3 else f"again-{which}"
            await service.files.store("/" + name, chunks(data))
            os.write(said, f"{name} {len(data)} {hashlib.sha256(data).hexdigest()}\\n".encode())

    async def main(root, seed, said):
        service = FileService(root, uploads=True, overwrite=True, disk_floor=0)
        numbers = random.Random(seed)
        await asyncio.gather(*(client(service, which, numbers, said) for which in range(3)))

    top, count = sys.argv[1], int(sys.argv[2])
    moments = random.Random(4)
    for seed in range(count):
        root = f"{top}/{seed}"
        os.mkdir(root)
        hears, said = os.pipe()
        child = os.fork()
        if child == 0:
            noria.run(main(root, seed, said))
        os.close(said)
        # On a busy machine no upload may have begun by then, so every second process is killed some
        # time after its first acknowledgement.
        first = os.read(hears, 65536) if seed % 2 else b""
        time.sleep(moments.uniform(0.01, 0.15))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL
        with open(hears, "rb") as lines, open(root + ".said", "wb") as kept:
            kept.write(first + lines.read())
"""


@pytest.mark.timeout(count(60, 600))
def test_many_kills(tmp_path: Path) -> None:
    """The process writes its acknowledgements to a pipe, which remains after it is killed."""
    kills = count(30, 300)
    status, _, errors = finish(start(STORING, str(tmp_path), str(kills)), 60 * kills)
    assert (status, errors) == (0, "")
    parts = acknowledged = 0
    for number in range(kills):
        root = tmp_path / str(number)
        for line in (tmp_path / f"{number}.said").read_text().splitlines(keepends=True):
            name, size, digest = line.split()
            acknowledged += 1
            data = (root / name).read_bytes()
            if not name.startswith("again"):  # these may have been replaced since
                assert (str(len(data)), hashlib.sha256(data).hexdigest()) == (size, digest)
        for path in root.iterdir():
            if path.name.startswith(".noria-"):
                parts += 1
                continue
            data = path.read_bytes()
            assert hashlib.sha256(data[:-32]).digest() == data[-32:], f"{path.name} is partial"
        shutil.rmtree(root)
    assert acknowledged > 0
    assert parts > 0  # some were killed in the middle of an upload


def test_a_part_is_held_while_its_process_lives(tmp_path: Path) -> None:
    process = start(
        """
        import asyncio, sys
        import noria
        from noria.fileserver.service import FileService

        async def chunks():
            yield b"x" * 2_000_000
            print("written", flush=True)
            await asyncio.Event().wait()

        service = FileService(sys.argv[1], uploads=True, disk_floor=0)
        noria.run(service.files.store("/file", chunks()))
        """,
        str(tmp_path),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n", process.communicate()[1]
    (part,) = tmp_path.iterdir()
    root = Root(tmp_path)
    os.utime(part, (1, 1))
    assert remove_stale(root) == 0
    process.kill()
    process.communicate()
    os.utime(part, (1, 1))
    assert remove_stale(root) == 1
    assert list(tmp_path.iterdir()) == []
    root.close()
