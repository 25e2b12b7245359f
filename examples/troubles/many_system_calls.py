"""An answer is sent byte by byte: a system call for each."""

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


async def serve(connection):  # FAULT many-system-calls: one call could send the answer
    loop = asyncio.get_running_loop()
    answer = bytes(LENGTH)
    with connection:
        while await loop.sock_recv(connection, 100):
            for index in range(LENGTH):
                await loop.sock_sendall(connection, answer[index : index + 1])


async def main():
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        clients = asyncio.gather(
            *(asyncio.to_thread(client, listener.getsockname()) for _ in range(2))
        )
        serving = set()
        for _ in range(2):
            connection, _ = await loop.sock_accept(listener)
            serving.add(asyncio.create_task(serve(connection)))
        await clients
        await asyncio.gather(*serving)
    print(2 * REQUESTS, "answers of", LENGTH, "bytes")


asyncio.run(main())
