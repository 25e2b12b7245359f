"""Two requests with one number: the second takes the place of the first, which waits for ever."""

import asyncio

pending = {}


async def request(number):
    answer = asyncio.get_running_loop().create_future()
    pending[number] = answer  # replaces a request with this number
    return await answer  # FAULT task-waits-long: nothing else has the first one's future


async def main():
    requests = [asyncio.create_task(request(number)) for number in (1, 2, 2, 3)]
    await asyncio.sleep(0.1)
    for number, answer in pending.items():
        answer.set_result(f"answer {number}")
    pending.clear()
    done, waiting = await asyncio.wait(requests, timeout=2)
    print(len(done), "requests have an answer,", len(waiting), "waits")
    for task in waiting:
        task.cancel()


asyncio.run(main())
