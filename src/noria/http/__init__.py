"""An HTTP/1.1 server protocol for asyncio transports: framing, bodies, ranges, conditions.

Imports `aio`, `_core.files` and `errors`; knows nothing of files on disk or of the file server."""
