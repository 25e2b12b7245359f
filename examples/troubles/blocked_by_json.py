"""json.loads of a document of 50 MB: the parser is C code that holds the GIL."""

import asyncio
import json

NUMBERS = 2_500_000
document = "[" + ", ".join(["0.1234567890123456"] * NUMBERS) + "]"


async def handle(text):
    numbers = json.loads(text)  # FAULT loop-blocked: a thread would not help either
    print(len(numbers), "numbers from", len(text) >> 20, "MiB")


async def main():
    ticks = asyncio.create_task(ticker())
    await asyncio.sleep(0.1)
    await handle(document)
    await asyncio.sleep(0.1)
    ticks.cancel()


async def ticker():
    while True:
        await asyncio.sleep(0.02)


asyncio.run(main())
