"""hypercorn started with its API, which runs on the current loop."""

from __future__ import annotations

import asyncio
import signal
import sys

from asgi_app import application
from hypercorn.asyncio import serve
from hypercorn.config import Config

import noria


async def main() -> None:
    """Serve until SIGTERM."""
    config = Config()
    config.bind = [f"127.0.0.1:{sys.argv[1]}"]
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)

    async def shut() -> None:
        await ended.wait()

    await serve(application, config, shutdown_trigger=shut)  # type: ignore[arg-type]


if __name__ == "__main__":
    noria.run(main())
