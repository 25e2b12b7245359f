"""A task polls with sleep(0) until another one is done: the loop never sleeps."""

import asyncio


class Job:
    finished = False

    def finish(self):
        self.finished = True


async def wait_for(job):
    turns = 0
    while not job.finished:
        turns += 1
        await asyncio.sleep(0)  # FAULT self-wake-storm: an asyncio.Event would wake it once
    print("the job is finished after", turns, "looks")


async def main():
    job = Job()
    asyncio.get_running_loop().call_later(0.8, job.finish)
    await wait_for(job)


asyncio.run(main())
