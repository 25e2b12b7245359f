"""A task polls with sleep(0) until another one is done: the loop never sleeps."""

import asyncio
import time


class Job:
    finished = False

    def finish(self):
        self.finished = True


async def work(job):
    """Finish the job after the thread has used 0.8 s of CPU time."""
    end = time.thread_time() + 0.8
    while time.thread_time() < end:
        await asyncio.sleep(0.05)
    job.finish()


async def wait_for(job):
    turns = 0
    while not job.finished:
        turns += 1
        await asyncio.sleep(0)  # FAULT self-wake-storm: an asyncio.Event would wake it once
    print("the job is finished after", turns, "looks")


async def main():
    job = Job()
    working = asyncio.create_task(work(job))
    await wait_for(job)
    await working


asyncio.run(main())
