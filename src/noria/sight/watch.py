"""noria.watch, noria.record and noria.mark: for programs that `noria run` does not start."""

from __future__ import annotations

import asyncio
import os
import threading
import warnings
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from noria._core.loop import Loop
from noria.sight import lifetime
from noria.sight.settings import DEFAULT_BUFFER, MAX_BUFFER, MIN_BUFFER, Settings

if TYPE_CHECKING:
    from typing import Self

    from noria.sight.agent import Agent
    from noria.sight.dump import RecordingWriter
    from noria.sight.watched_loop import WatchedLoop


class Watch:
    """What `noria.watch` returns: the loops of this process are watched until `stop`.

    A context manager, also for ``async with``.
    """

    def __init__(self, settings: Settings) -> None:
        self._lock = threading.Lock()
        self._stopped = False
        # A child of a fork has another one: see `agent`.
        self._agent = lifetime.acquire(settings)

    @property
    def agent(self) -> Agent | None:
        """The agent of this process; None once it has stopped."""
        return lifetime.active()

    @property
    def socket(self) -> str | None:
        """The path of the socket that `noria top` connects to; None without one."""
        agent = lifetime.active()
        return str(agent.server.path) if agent is not None and agent.server is not None else None

    def dump(self, path: str | os.PathLike[str]) -> int:
        """Write what the recorder's memory has, as a recording for `noria report`.

        Returns the number of records. Raises OSError, and RuntimeError once stopped.
        """
        agent = lifetime.active()
        if agent is None:
            raise RuntimeError("the process is not watched")
        from noria.sight.dump import dump_rings

        return dump_rings(agent, path)

    def stop(self) -> None:
        """Stop watching, unless another `watch` or `record` still does. May be called twice."""
        with self._lock:
            if self._stopped:
                return
            self._stopped = True
        self._end()

    def _end(self) -> None:
        lifetime.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


class Record(Watch):
    """What `noria.record` returns: a recording that is written until `stop`."""

    def __init__(self, path: str | os.PathLike[str], settings: Settings) -> None:
        from noria.sight.dump import RecordingWriter

        super().__init__(settings)
        self.path = os.fspath(path)
        self._writing = threading.Lock()
        self._writer: RecordingWriter | None
        try:
            self._writer = RecordingWriter(self._agent, path)
        except BaseException:
            lifetime.release()
            raise
        self._agent.add_ticker(self.flush)
        self._agent.add_reader(self._write)

    def flush(self) -> None:
        """Write what was recorded so far to the file."""
        self._write()

    def _write(self, leaving: Sequence[WatchedLoop] = ()) -> None:
        with self._writing:
            if self._writer is not None:
                self._writer.write(leaving)

    @property
    def records(self) -> int:
        """The number of records written."""
        writer = self._writer
        return writer.records if writer is not None else 0

    def _end(self) -> None:
        agent = self._agent
        agent.remove_ticker(self.flush)
        agent.remove_reader(self._write)
        try:
            if agent.pid != os.getpid():
                # The child of a fork: a thread of the parent may have had the lock.
                writer, self._writer = self._writer, None
                if writer is not None:
                    writer.abandon()
                return
            with self._writing:
                writer, self._writer = self._writer, None
                if writer is not None:
                    writer.close()
        finally:
            lifetime.release()


def _warn_of_other_loop() -> None:
    """Warn if the loop that runs in this thread is not noria's."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:  # none runs
        return
    if isinstance(loop, Loop):
        return
    kind = type(loop)
    warnings.warn(
        f"the running event loop, {kind.__module__}.{kind.__qualname__}, is not noria's and is not "
        "watched or recorded: run the program with noria.run(main()) or 'noria run SCRIPT'",
        RuntimeWarning,
        stacklevel=3,
    )


def _settings(max_block: float, buffer: int, socket: bool, report_blocks: bool) -> Settings:
    if not 0 < max_block < 1e6:
        raise ValueError(f"max_block is a number of seconds above 0, not {max_block!r}")
    if not MIN_BUFFER <= buffer <= MAX_BUFFER:
        raise ValueError(f"buffer must be {MIN_BUFFER} to {MAX_BUFFER} bytes, not {buffer!r}")
    return Settings(
        max_block=int(max_block * 1e9), buffer=buffer, socket=socket, report_blocks=report_blocks
    )


def watch(
    *,
    max_block: float = 0.1,
    buffer: int = DEFAULT_BUFFER,
    socket: bool = True,
    report_blocks: bool = True,
) -> Watch:
    """Watch the loops of this process: `noria top` can show them, blocked loops are reported.

    Args:
        max_block: seconds that a turn of a loop may last; a longer one is reported on standard
            error while it lasts, with the stack.
        buffer: bytes of memory for the records of each loop, 64 KiB to 24 GiB; the oldest are
            overwritten.
        socket: whether to listen for `noria top`, on a Unix socket of this user.
        report_blocks: whether to write about blocked loops on standard error.

    Calls may be nested: the first one's arguments count, and watching ends with the last `stop`.
    In a running loop that is not noria's, which cannot be watched, a RuntimeWarning says so.

    Raises OSError if the socket or memory cannot be created, ValueError for wrong arguments.
    """
    settings = _settings(max_block, buffer, socket, report_blocks)
    _warn_of_other_loop()
    return Watch(settings)


def record(
    path: str | os.PathLike[str],
    *,
    max_block: float = 0.1,
    buffer: int = DEFAULT_BUFFER,
    socket: bool = True,
    report_blocks: bool = True,
) -> Record:
    """Record what the loops of this process do into a file, for `noria report`.

    Recording begins at once and ends with `stop`, or with the ``with`` or ``async with`` block.
    A program that is killed leaves a file that can be opened. The arguments are those of `watch`.
    In a running loop that is not noria's, which cannot be recorded, a RuntimeWarning says so.

    Raises OSError, also at the end if the file could not be written, and ValueError.
    """
    settings = _settings(max_block, buffer, socket, report_blocks)
    _warn_of_other_loop()
    return Record(path, settings)


def mark(name: str) -> None:
    """Record a mark with a name at this moment, in the loop of this thread or else in all loops.

    Does nothing while the process is not watched.
    """
    agent = lifetime.active()
    if agent is not None:
        agent.mark(name)
