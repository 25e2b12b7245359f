import asyncio

class ClientCount:
    client_count: int
    listening_ended: bool
    def _attach(self, transport: asyncio.BaseTransport | None = None) -> None: ...
    def _detach(self, transport: asyncio.BaseTransport | None = None) -> None: ...
