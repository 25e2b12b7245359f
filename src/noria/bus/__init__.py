"""The event bus: handlers of events that other processes and machines emit, through a broker.

    bus = noria.Bus("nats://127.0.0.1:4222")

    @bus.on("upload.finished", group="thumbnails", retries=5)
    async def thumbnail(event): ...

    await bus.emit("upload.finished", name="a.txt", size=3)

`contract.py` is what a broker must do, `brokers/` has one file for each, `dispatch.py` is the
policy that all of them share. May import noria's reactor and what lies below it, and asyncio.
"""
