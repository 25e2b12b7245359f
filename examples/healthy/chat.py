"""A chat with 25 clients for 2 s: each line goes to all of them."""

import asyncio
import sys

SECONDS = float(sys.argv[1]) if sys.argv[1:] else 2.0
CLIENTS = 25
writers = set()


async def serve(reader, writer):
    """Send each line of a client to all."""
    writers.add(writer)
    try:
        while line := await reader.readline():
            for other in writers:
                other.write(line)
            await asyncio.gather(*(other.drain() for other in writers))
    except ConnectionError:
        pass
    finally:
        writers.discard(writer)
        writer.close()


async def client(address, number, end):
    """Say something ten times a second; return the number of lines that arrived."""
    loop = asyncio.get_running_loop()
    reader, writer = await asyncio.open_connection(*address)
    listening = asyncio.create_task(count_lines(reader))
    said = 0
    while loop.time() < end:
        said += 1
        writer.write(f"client {number} says {said}\n".encode())
        await writer.drain()
        await asyncio.sleep(0.1)
    writer.write_eof()
    lines = await listening
    writer.close()
    return lines


async def count_lines(reader):
    lines = 0
    async for _ in reader:
        lines += 1
    return lines


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    end = asyncio.get_running_loop().time() + SECONDS
    lines = await asyncio.gather(*(client(address, number, end) for number in range(CLIENTS)))
    print(sum(lines), "lines arrived")
    server.close()
    await server.wait_closed()


asyncio.run(main())
