"""A background task fails, and no code looks at its result."""

import asyncio

RATES = {"EUR": 1.0, "USD": 1.1}


async def convert(amount, currency):
    await asyncio.sleep(0.05)
    return amount * RATES[currency]  # FAULT exception-never-retrieved: KeyError


async def main():
    background = {asyncio.create_task(convert(10, name)) for name in ("EUR", "USD", "XYZ")}
    await asyncio.sleep(0.2)
    print(sum(task.done() for task in background), "conversions are done")
    background.clear()
    await asyncio.sleep(0.2)


asyncio.run(main())
