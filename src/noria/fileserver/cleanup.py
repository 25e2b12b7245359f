"""Removes stale partial files when the server starts, and at intervals after that."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import threading

from noria.fileserver.file_store import FileStore
from noria.fileserver.stale_files import STALE_AFTER
from noria.http.worker_threads import run_in_thread

log = logging.getLogger("noria")

# Seconds from the first walk to the second one. Files of a process that was killed just before the
# start are too young for the first.
FIRST_INTERVAL = STALE_AFTER + 5.0
INTERVAL = 3600.0  # seconds between later walks, each through all directories


class Cleanup:
    """Removes stale partial files from `files`, in threads, unless the files are read-only.

    `lock_fd` is a descriptor that the workers share, or -1 if there is one process. The worker that
    holds the lock on it cleans up for all, until it exits.
    """

    def __init__(self, files: FileStore, lock_fd: int = -1) -> None:
        self._files = files
        self._lock_fd = lock_fd
        self._stopping = threading.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start, on the running loop."""
        if self._files.writable:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        with contextlib.suppress(OSError):  # an upload will report it
            await run_in_thread(self._files.quota.count)
        pause = FIRST_INTERVAL
        while True:
            if not self._has_lock():
                await asyncio.sleep(INTERVAL)
                continue
            try:
                count = await self._files.remove_stale(self._stopping.is_set)
            except OSError as error:
                log.warning("cannot look for files of interrupted uploads: %s", error)
            else:
                if count:
                    log.info("removed the files of %d interrupted uploads", count)
            await asyncio.sleep(pause)
            pause = INTERVAL

    def _has_lock(self) -> bool:
        if self._lock_fd < 0:
            return True
        try:
            # The workers would share a lock of flock(2). A record lock, fcntl(2), has one owner.
            fcntl.lockf(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    async def stop(self) -> None:
        """Stop; a walk that is running stops at its next directory."""
        self._stopping.set()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
