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
    unsent = 0
    while not finished.is_set():
        writer.write(b"news " * 2**15)  # FAULT send-buffer-growing: no drain() follows
        unsent = max(unsent, writer.transport.get_write_buffer_size())
        await asyncio.sleep(0.01)
    print(unsent >> 20, "MiB are unsent")
    writer.transport.abort()


async def main():
    server = await asyncio.start_server(publish, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    thread = threading.Thread(target=slow_client, args=(address,))
    thread.start()
    await asyncio.sleep(1.5)
    finished.set()
    thread.join()
    await asyncio.sleep(0.1)
    server.close()


asyncio.run(main())
