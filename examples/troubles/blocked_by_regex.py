"""A regular expression that backtracks: time grows exponentially, and it holds the GIL."""

import asyncio
import re

WORDS = re.compile(r"(\w+\s?)+$")


def is_valid(line):
    return WORDS.match(line) is not None  # FAULT loop-blocked: nested repetition


async def main():
    ticks = asyncio.create_task(ticker())
    await asyncio.sleep(0.2)
    for line in ("a short line", "a line that does end without a word !"):
        print(repr(line), "is valid" if is_valid(line) else "is not valid", flush=True)
        await asyncio.sleep(0.1)
    ticks.cancel()


async def ticker():
    while True:
        await asyncio.sleep(0.02)


asyncio.run(main())
