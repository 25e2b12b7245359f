"""What lost uploads left behind is removed when the server starts, and from time to time after."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import threading
from typing import TYPE_CHECKING

from noria.fileserver.storage import ABANDONED
from noria.http.worker_threads import run_in_thread

if TYPE_CHECKING:
    from noria.fileserver.service import FileService

log = logging.getLogger("noria")

SECOND = (
    ABANDONED + 5.0
)  # seconds to the second look: what was just killed is too young for the first
EVERY = 3600.0  # seconds between two looks from then on: each is a walk through all directories


class Upkeep:
    """Sweeps the directory of `service`, in threads. Where nothing may be changed it does nothing.

    `turn` is a descriptor that several workers have in common, or -1: the one that gets its lock
    sweeps for all as long as it lives.
    """

    def __init__(self, service: FileService, turn: int = -1) -> None:
        self._service = service
        self._turn = turn
        self._ending = threading.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins, on the running loop."""
        if self._service.writable:
            self._task = asyncio.get_running_loop().create_task(self._sweeping())

    async def _sweeping(self) -> None:
        with contextlib.suppress(OSError):  # who stores something is told then
            await run_in_thread(self._service.quota.count)
        pause = SECOND
        while True:
            if not self._mine():
                await asyncio.sleep(EVERY)
                continue
            try:
                count = await self._service.sweep(self._ending.is_set)
            except OSError as error:
                log.warning("looking for what lost uploads left behind failed: %s", error)
            else:
                if count:
                    log.info("removed what %d lost uploads left behind", count)
            await asyncio.sleep(pause)
            pause = EVERY

    def _mine(self) -> bool:
        if self._turn < 0:
            return True
        try:
            # A lock of the process, fcntl(2): flock would be one for all that inherit it.
            fcntl.lockf(self._turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    async def stop(self) -> None:
        """Ends a walk that is under way at its next directory."""
        self._ending.set()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
