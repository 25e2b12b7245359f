"""A protocol pauses reading and forgets to resume: data waits in the kernel."""

import asyncio

collectors = []


class Collector(asyncio.Protocol):
    """Collect lines, at most 10 before they are handled."""

    def connection_made(self, transport):
        self.transport = transport
        self.lines = []
        collectors.append(self)

    def data_received(self, data):
        self.lines += data.splitlines()
        if len(self.lines) >= 10:
            self.transport.pause_reading()  # FAULT reader-paused: handle() does not resume it
            asyncio.get_running_loop().call_soon(self.handle)

    def handle(self):
        print(len(self.lines), "lines are handled")
        self.lines.clear()


async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Collector, "127.0.0.1", 0)
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    for _ in range(20):
        writer.write(b"a line\n" * 20)
        await asyncio.sleep(0.1)
    writer.close()
    collectors.pop().transport.close()
    server.close()


asyncio.run(main())
