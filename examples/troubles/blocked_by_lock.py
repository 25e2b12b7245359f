"""A coroutine takes a threading.Lock that a thread holds."""

import asyncio
import threading
import time

lock = threading.Lock()
begun, wanted = threading.Event(), threading.Event()


def write_report():
    """Work with the lock, for half a second after the loop wants it."""
    with lock:
        begun.set()
        wanted.wait()
        time.sleep(0.5)


async def read_report():
    wanted.set()
    with lock:  # FAULT loop-blocked: the whole loop waits for the thread
        print("the report is read")


async def main():
    ticks = asyncio.create_task(ticker())
    thread = threading.Thread(target=write_report)
    thread.start()
    while not begun.is_set():
        await asyncio.sleep(0.01)
    await read_report()
    thread.join()
    await asyncio.sleep(0.1)
    ticks.cancel()


async def ticker():
    while True:
        await asyncio.sleep(0.02)


asyncio.run(main())
