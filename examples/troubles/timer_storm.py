"""A thousand objects look every millisecond whether something has changed."""

import asyncio

WATCHERS = 1_000


class Valve:
    open = False


async def watch(valve):
    while not valve.open:
        await asyncio.sleep(0.001)  # FAULT timer-storm: an asyncio.Event would wake it once


async def main():
    valves = [Valve() for _ in range(WATCHERS)]
    watchers = [asyncio.create_task(watch(valve)) for valve in valves]
    await asyncio.sleep(1.2)
    for valve in valves:
        valve.open = True
    await asyncio.gather(*watchers)
    print(WATCHERS, "valves are open")


asyncio.run(main())
