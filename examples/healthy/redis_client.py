"""redis-py with a pool, pipelines and a subscription for 2 s. Needs redis and redis-server."""

import asyncio
import shutil
import sys
import tempfile

import redis.asyncio
from redis.exceptions import ConnectionError

SECONDS = float(sys.argv[1]) if sys.argv[1:] else 2.0
TASKS = 10


async def work(client, number, end):
    """Increment a counter, read it, and publish; return the number of rounds."""
    loop, rounds = asyncio.get_running_loop(), 0
    while loop.time() < end:
        async with client.pipeline() as pipe:
            pipe.incr(f"counter:{number}")
            pipe.get(f"counter:{number}")
            count, text = await pipe.execute()
        assert int(text) == count
        await client.publish("news", text)
        rounds += 1
    return rounds


async def listen(client, ready):
    """Count the messages until "end"."""
    messages = 0
    async with client.pubsub() as pubsub:
        await pubsub.subscribe("news")
        ready.set()
        async for message in pubsub.listen():
            messages += message["type"] == "message"
            if message["data"] == b"end":
                break
    return messages


async def main(path):
    command = ("redis-server", "--port", "0", "--unixsocket", path, "--save", "")
    server = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
    try:
        async with redis.asyncio.Redis(unix_socket_path=path) as client:
            await connected(client)
            ready = asyncio.Event()
            listening = asyncio.create_task(listen(client, ready))
            await ready.wait()
            end = asyncio.get_running_loop().time() + SECONDS
            rounds = await asyncio.gather(*(work(client, n, end) for n in range(TASKS)))
            await client.publish("news", "end")
            print(sum(rounds), "rounds,", await listening, "messages")
    finally:
        server.terminate()
        await server.wait()


async def connected(client):
    """Wait until the server answers."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await client.ping()
            except ConnectionError:
                await asyncio.sleep(0.05)


if shutil.which("redis-server") is None:
    sys.exit("redis-server is not installed")
with tempfile.TemporaryDirectory() as directory:
    asyncio.run(main(f"{directory}/redis.sock"))
