"""A client that does not read: the server waits for it, without a limit."""

import asyncio
import socket
import threading

finished = threading.Event()


def slow_client(address):
    """Connect and never read."""
    with socket.create_connection(address) as connection:
        connection.sendall(b"get\n")
        finished.wait()


async def serve(reader, writer):
    await reader.readline()
    for _ in range(200):
        writer.write(b"x" * 2**16)
        await writer.drain()  # FAULT slow-client: no timeout
    print("never printed")


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    thread = threading.Thread(target=slow_client, args=(address,))
    thread.start()
    await asyncio.sleep(2.2)
    print("the client has not read for 2 s")
    finished.set()
    thread.join()
    server.close()


asyncio.run(main())
