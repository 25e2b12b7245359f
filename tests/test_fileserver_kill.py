"""What was acknowledged survives SIGKILL at any moment, and nothing is ever torn."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import time
from pathlib import Path

from loops import count
from noria.fileserver.paths import Root
from noria.fileserver.store import sweep
from running import start

STORING = """
    import asyncio, hashlib, random, sys

    import noria
    from noria.fileserver.service import FileService

    root, seed = sys.argv[1:]
    numbers = random.Random(int(seed))

    async def chunks(data):
        for at in range(0, len(data), 65536):
            yield data[at:at + 65536]
            await asyncio.sleep(0)

    async def client(service, which):
        for number in range(1_000_000):
            data = numbers.randbytes(numbers.choice([0, 10, 5000, 200_000, 1_500_000]))
            data += hashlib.sha256(data).digest()  # each file tells whether it is whole
            name = f"{which}-{number}" if number % 3 else f"again-{which}"
            await service.store("/" + name, chunks(data))
            sys.stdout.write(f"{name} {len(data)} {hashlib.sha256(data).hexdigest()}\\n")
            sys.stdout.flush()

    async def main():
        service = FileService(root, uploads=True, overwrite=True, disk_floor=0)
        await asyncio.gather(*(client(service, which) for which in range(3)))

    print("ready", flush=True)
    noria.run(main())
"""


def test_thirty_kills(tmp_path: Path) -> None:
    numbers = random.Random(4)
    torn_parts = acknowledged = 0
    for seed in range(count(30, 300)):
        root = tmp_path / str(seed)
        root.mkdir()
        process = start(STORING, str(root), str(seed))
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate()[1]
        time.sleep(numbers.uniform(0, 0.25))
        process.kill()
        said, errors = process.communicate()
        assert errors == ""
        last: dict[str, tuple[str, str]] = {}
        for line in said.splitlines(keepends=True):
            if line.endswith("\n"):  # the last may be cut
                name, size, digest = line.split()
                last[name] = size, digest
                acknowledged += 1
        for name, (size, digest) in last.items():
            data = (root / name).read_bytes()
            if not name.startswith("again"):  # those may have been replaced since
                assert (str(len(data)), hashlib.sha256(data).hexdigest()) == (size, digest)
        for path in root.iterdir():
            if path.name.startswith(".noria-"):
                torn_parts += 1
                continue
            data = path.read_bytes()
            assert hashlib.sha256(data[:-32]).digest() == data[-32:], f"{path.name} is torn"
        shutil.rmtree(root)
    assert acknowledged > 0
    assert torn_parts > 0  # kills did come in the middle


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

        noria.run(FileService(sys.argv[1], uploads=True, disk_floor=0).store("/file", chunks()))
        """,
        str(tmp_path),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n", process.communicate()[1]
    (part,) = tmp_path.iterdir()
    root = Root(tmp_path)
    os.utime(part, (1, 1))
    assert sweep(root) == 0
    process.kill()
    process.communicate()
    os.utime(part, (1, 1))
    assert sweep(root) == 1
    assert list(tmp_path.iterdir()) == []
    root.close()
