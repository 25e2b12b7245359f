import asyncio

from noria._core.contract import Channel

def run_own(handle: asyncio.Handle) -> None: ...

class Descriptor(Channel): ...
