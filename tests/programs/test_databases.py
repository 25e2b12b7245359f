"""asyncpg on a real PostgreSQL and redis-py on a real Redis, both started here."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starting import free_port, started


@pytest.fixture(scope="module")
def redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    pytest.importorskip("redis")
    if not shutil.which("redis-server"):
        pytest.skip("redis-server is not installed: apt-get install redis-server")
    port = free_port()
    options = ["--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path_factory.mktemp("redis"))]
    with started("redis-server", "--port", str(port), *options, port=port):
        yield port


@pytest.fixture(scope="module")
def postgresql() -> Iterator[dict[str, Any]]:
    pytest.importorskip("asyncpg")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not found:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    # The folders of pytest's temporary paths are for its own user only.
    with tempfile.TemporaryDirectory() as folder:
        yield from _postgresql(found[-1].parent, folder)


def _postgresql(binaries: Path, folder: str) -> Iterator[dict[str, Any]]:
    options: dict[str, Any] = {}
    if os.getuid() == 0:  # PostgreSQL refuses to run as root
        user = pwd.getpwnam("postgres")
        options = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        os.chown(folder, user.pw_uid, user.pw_gid)
    data = os.path.join(folder, "data")
    subprocess.run(
        [binaries / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "--no-sync"],
        check=True, capture_output=True, cwd=folder, **options,
    )  # fmt: skip
    port = free_port()
    command = [str(binaries / "postgres"), "-D", data, "-p", str(port), "-F"]
    command += ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}"]
    with started(*command, port=port, cwd=folder, **options):
        # PostgreSQL listens before it is ready, and refuses sessions meanwhile.
        ready = [str(binaries / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
        deadline = time.monotonic() + 30
        while subprocess.run(ready).returncode != 0:
            if time.monotonic() > deadline:
                pytest.fail("PostgreSQL listens but accepts no sessions")
            time.sleep(0.05)
        yield {"host": "127.0.0.1", "port": port, "user": "postgres", "database": "postgres"}


def test_redis(run: Any, redis_port: int) -> None:
    redis = pytest.importorskip("redis.asyncio")

    async def main() -> None:
        pool = redis.BlockingConnectionPool(
            port=redis_port, decode_responses=True, max_connections=50
        )
        async with redis.Redis.from_pool(pool) as client:
            await client.flushall()
            async with client.pipeline() as pipe:
                for n in range(500):
                    pipe.incrby("sum", n)
                assert (await pipe.execute())[-1] == sum(range(500))
            await asyncio.gather(*(client.incr("tasks") for _ in range(300)))
            assert await client.get("tasks") == "300"
            await client.set("large", "x" * 1_000_000)
            assert len(await client.get("large")) == 1_000_000
            async with client.pubsub() as channel:
                await channel.subscribe("news")
                assert (await channel.get_message(timeout=5))["type"] == "subscribe"
                await client.publish("news", "today")
                assert (await channel.get_message(timeout=5))["data"] == "today"
            task = asyncio.ensure_future(client.blpop("nothing"))
            await asyncio.sleep(0.02)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await client.ping()

    run(main())


def test_asyncpg(run: Any, postgresql: dict[str, Any]) -> None:
    asyncpg = pytest.importorskip("asyncpg")

    async def main() -> None:
        async with asyncpg.create_pool(**postgresql, min_size=2, max_size=5) as pool:
            squares = await asyncio.gather(
                *(pool.fetchval("SELECT $1::int * $1", n) for n in range(200))
            )
            assert squares == [n * n for n in range(200)]
            async with pool.acquire() as one, pool.acquire() as other:
                await one.execute("CREATE TEMP TABLE t (n int, s text)")
                rows = [(n, "x" * 1000) for n in range(1000)]
                await one.copy_records_to_table("t", records=rows)
                with pytest.raises(ZeroDivisionError):
                    async with one.transaction():
                        await one.execute("DELETE FROM t")
                        raise ZeroDivisionError
                assert await one.fetchval("SELECT count(*) FROM t") == 1000
                heard = asyncio.get_running_loop().create_future()
                await one.add_listener("news", lambda *args: heard.set_result(args[-1]))
                await other.execute("NOTIFY news, 'today'")
                assert await asyncio.wait_for(heard, 10) == "today"
                await one.reset()
                with pytest.raises(asyncio.TimeoutError):
                    await other.execute("SELECT pg_sleep(3600)", timeout=0.2)
                assert await other.fetchval("SELECT 1") == 1
                task = asyncio.ensure_future(other.execute("SELECT pg_sleep(3600)"))
                await asyncio.sleep(0.05)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert await other.fetchval("SELECT 1") == 1

    run(main())
