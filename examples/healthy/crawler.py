"""A crawler with 10 tasks for about 2 s: a site of linked pages, a queue, a limit, a timeout."""

import asyncio
import re
import sys

SECONDS = float(sys.argv[1]) if sys.argv[1:] else 2.0
TASKS, PAGES = 10, 100_000
LINK = re.compile(r'href="/([0-9]+)"')


async def site(reader, writer):
    """Serve pages that link to others, one for each connection."""
    number = int((await reader.readuntil(b"\r\n\r\n")).split()[1].strip(b"/"))
    await asyncio.sleep(0.01)
    links = ((number * 7 + step) % PAGES for step in range(1, 9))
    page = "".join(f'<p>text <a href="/{link}">page {link}</a></p>' for link in links)
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + page.encode())
    await writer.drain()
    writer.close()
    await writer.wait_closed()


async def fetch(address, number):
    """Return the text of a page."""
    async with asyncio.timeout(20):
        reader, writer = await asyncio.open_connection(*address)
        try:
            writer.write(f"GET /{number} HTTP/1.1\r\nHost: site\r\n\r\n".encode())
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            return body.decode()
        finally:
            writer.close()


def links_of(page):
    """Return the numbers of the pages that a page links to."""
    return [int(number) for number in LINK.findall(page)]


async def crawl(address, queue, seen, end):
    """Fetch pages from the queue and put those that they link to into it."""
    loop = asyncio.get_running_loop()
    while True:
        number = await queue.get()
        if loop.time() < end:
            page = await fetch(address, number)
            for link in await asyncio.to_thread(links_of, page):
                if link not in seen:
                    seen.add(link)
                    queue.put_nowait(link)
        queue.task_done()


async def main():
    server = await asyncio.start_server(site, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    queue, seen = asyncio.Queue(), {1}
    queue.put_nowait(1)
    end = asyncio.get_running_loop().time() + SECONDS
    async with asyncio.TaskGroup() as tasks:
        crawlers = [tasks.create_task(crawl(address, queue, seen, end)) for _ in range(TASKS)]
        await queue.join()
        for crawler in crawlers:
            crawler.cancel()
    print(len(seen), "links found")
    server.close()
    await server.wait_closed()


asyncio.run(main())
