"""One engine's turns: ``python -m noria.compare.files.child ENGINE DIRECTORY SIZE``.

Each line of its input is answered by the rows of one walk along the path, and by how late the
ticker is of itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Any

import noria
from noria.compare.files.held import PAGE, Counter
from noria.compare.files.steps import Walk
from noria.compare.measure.child import reply
from noria.errors import NoriaError

PIECE = 1024 * 1024  # bytes: random, so that no file system writes less than it was given


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs until the end of its input; returns the exit status."""
    engine, directory, size = sys.argv[1:] if arguments is None else arguments
    os.environ["NORIA_FILES"] = engine
    try:
        with asyncio.Runner(loop_factory=noria.new_event_loop) as runner:
            _serve(runner, engine, directory, int(size))
    except (OSError, NoriaError) as error:
        _fail(error)
        return 1
    return 0


def _serve(runner: asyncio.Runner, engine: str, directory: str, size: int) -> None:
    piece = os.urandom(min(size, PIECE))
    data = (piece * (size // len(piece) + 1))[:size]
    counter = Counter()
    walk: Walk = runner.run(_walk(directory, counter))
    try:
        if walk.engine != engine:
            reply({"error": _why_not(runner), "kind": "refused"})
            return
        # What is done once only is done now: a thread begun, a module loaded.
        runner.run(walk.once(data[:PAGE]))
        reply({"counted": counter.way, "reason": counter.reason})
        for _ in sys.stdin:
            rows = runner.run(walk.once(data))
            reply({"rows": rows, "idle_us": runner.run(walk.idle()) * 1e6})
        _leave(directory)
    except BrokenPipeError:
        _leave(directory)
    finally:
        walk.stop()


async def _walk(directory: str, counter: Counter) -> Walk:
    return Walk(directory, counter)


def _leave(directory: str) -> None:
    """Whoever made the directory is gone: the last one here removes it."""
    with contextlib.suppress(OSError):
        os.rmdir(directory)


def _why_not(runner: asyncio.Runner) -> str:
    """What the kernel says to a ring."""
    from noria.files.ring_engine import RingEngine

    try:
        RingEngine(runner.get_loop()).close()
    except (OSError, NotImplementedError) as error:
        return getattr(error, "strerror", None) or str(error)
    return "no ring was to be had"


def _fail(error: Any) -> None:
    with contextlib.suppress(BrokenPipeError):
        reply({"error": getattr(error, "strerror", None) or str(error), "kind": "failed"})


if __name__ == "__main__":
    sys.exit(main())
