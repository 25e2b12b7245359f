"""An aiohttp server and an aiohttp client with 20 tasks for 2 s, in one loop. Needs aiohttp."""

import asyncio
import sys

from aiohttp import ClientSession, web

SECONDS = float(sys.argv[1]) if sys.argv[1:] else 2.0
CLIENTS = 20


async def hello(request):
    data = await request.json()
    return web.json_response({"hello": data["name"]})


async def client(session, url, end):
    """Send requests; return their number."""
    loop, answers = asyncio.get_running_loop(), 0
    while loop.time() < end:
        async with session.post(url, json={"name": "world"}) as response:
            assert await response.json() == {"hello": "world"}
        answers += 1
    return answers


async def main():
    app = web.Application()
    app.add_routes([web.post("/hello", hello)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0]
    end = asyncio.get_running_loop().time() + SECONDS
    async with ClientSession() as session:
        url = f"http://{host}:{port}/hello"
        answers = await asyncio.gather(*(client(session, url, end) for _ in range(CLIENTS)))
    print(sum(answers), "answers")
    await runner.cleanup()


asyncio.run(main())
