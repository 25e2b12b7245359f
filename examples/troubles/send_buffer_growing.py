"""A server writes without drain() to a client that does not read: its memory grows."""

import asyncio
import socket
import threading

finished = threading.Event()


def slow_client(address):
    """Connect and never read."""
    with socket.create_connection(address) as connection:
        connection.sendall(b"subscribe\n")
        finished.wait()


async def publish(reader, writer):
    await reader.readline()
    for _ in range(120):
        writer.write(b"news " * 2**15)  # FAULT send-buffer-growing: no drain() follows
        await asyncio.sleep(0.01)
    print(writer.transport.get_write_buffer_size() >> 20, "MiB are unsent")
    writer.transport.abort()
    finished.set()


async def main():
    server = await asyncio.start_server(publish, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    thread = threading.Thread(target=slow_client, args=(address,))
    thread.start()
    while not finished.is_set():
        await asyncio.sleep(0.05)
    thread.join()
    await asyncio.sleep(0.1)
    server.close()


asyncio.run(main())
