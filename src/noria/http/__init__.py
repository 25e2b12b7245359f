"""An HTTP/1.1 server protocol for asyncio transports: framing, bodies, ranges, conditions.

Imports `aio`, `_core.files` and `errors`; it does not know the file server and opens no files."""
