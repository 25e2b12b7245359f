"""A server answers without reading what the client goes on sending."""

import asyncio


async def serve(reader, writer):
    command = await reader.readline()
    print("command:", command.decode().strip())
    writer.write(b"accepted\n")
    await asyncio.sleep(2.2)  # FAULT unread-data: the body that follows is not read
    writer.close()


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"store\n")
    print("answer:", (await reader.readline()).decode().strip())
    for _ in range(6):
        writer.write(b"x" * 2**16)
        await asyncio.sleep(0.01)
    print("the body is sent")
    await asyncio.sleep(2)
    writer.close()
    server.close()


asyncio.run(main())
