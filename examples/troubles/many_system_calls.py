"""An answer is written byte by byte: a system call for each."""

import asyncio
import socket

REQUESTS, LENGTH = 20, 500


def client(address):
    """Send requests and read the answers."""
    with socket.create_connection(address) as connection:
        for _ in range(REQUESTS):
            connection.sendall(b"get\n")
            left = LENGTH
            while left:
                left -= len(connection.recv(left))


async def serve(reader, writer):  # FAULT many-system-calls: writelines would make one of them
    answer = bytes(LENGTH)
    while await reader.readline():
        for index in range(LENGTH):
            writer.write(answer[index : index + 1])
        await writer.drain()
    writer.close()


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    await asyncio.gather(*(asyncio.to_thread(client, address) for _ in range(2)))
    print(2 * REQUESTS, "answers of", LENGTH, "bytes")
    await asyncio.sleep(0.1)
    server.close()


asyncio.run(main())
