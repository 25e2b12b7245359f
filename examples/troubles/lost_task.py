"""A task that nothing refers to is garbage-collected while it waits."""

import asyncio
import gc


async def ask(number):
    answer = asyncio.get_running_loop().create_future()
    print("question", number, "is asked")
    await answer  # FAULT task-destroyed-pending: only this task has the future
    print("never printed")


async def main():
    for number in range(3):
        asyncio.create_task(ask(number))  # noqa: RUF006 - only asyncio has it, weakly
    await asyncio.sleep(3)
    gc.collect()
    await asyncio.sleep(0.2)


asyncio.run(main())
