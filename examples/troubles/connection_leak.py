"""A client opens a connection for each request and never closes it."""

import asyncio

pool = []


async def serve(reader, writer):
    while line := await reader.readline():
        writer.write(line.upper())
    writer.close()


async def request(address, text):
    reader, writer = await asyncio.open_connection(*address)  # FAULT connection-leak
    writer.write(text.encode() + b"\n")
    answer = await reader.readline()
    pool.append((reader, writer))  # to use it again, which no code does
    return answer


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    for number in range(80):
        await request(address, f"request {number}")
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.7)
    print(len(pool), "connections are open")
    server.close()


asyncio.run(main())
