import asyncio

from noria._core.contract import Channel

def run_asyncio_handle(handle: asyncio.Handle) -> None: ...

class Descriptor(Channel): ...
