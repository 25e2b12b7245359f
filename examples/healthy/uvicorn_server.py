"""uvicorn with 20 clients for 2 s, in one loop. Needs uvicorn."""

import asyncio
import sys

import uvicorn

SECONDS = float(sys.argv[1]) if sys.argv[1:] else 2.0
CLIENTS = 20
REQUEST = b"GET /hello HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


async def app(scope, receive, send):
    """Answer each request with 1 KiB."""
    assert scope["type"] == "http"
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"1024")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"x" * 1024})


async def client(port, end):
    """Send requests on one connection; return their number."""
    loop, answers = asyncio.get_running_loop(), 0
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while loop.time() < end:
        writer.write(REQUEST)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        await reader.readexactly(1024)
        answers += 1
    writer.close()
    await writer.wait_closed()
    return answers


async def main():
    config = uvicorn.Config(app, port=0, lifespan="off", log_level="warning", access_log=False)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    end = asyncio.get_running_loop().time() + SECONDS
    answers = await asyncio.gather(*(client(port, end) for _ in range(CLIENTS)))
    print(sum(answers), "answers")
    server.should_exit = True
    await serving


asyncio.run(main())
