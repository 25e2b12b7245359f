"""The process of one engine: ``python -m noria.compare.files.child ENGINE DIRECTORY SIZE``.

For each line of input it runs all steps once, and replies with their rows and with the delay of the
ticker in an idle loop.
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
from noria.errors import NoriaError, error_message

# Random bytes, so that no file system compresses or deduplicates them.
RANDOM_BYTES = 1024 * 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until the end of the input; return the exit status."""
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
    piece = os.urandom(min(size, RANDOM_BYTES))
    data = (piece * (size // len(piece) + 1))[:size]
    counter = Counter()
    walk: Walk = runner.run(_walk(directory, counter))
    try:
        if walk.engine != engine:
            reply({"error": _refusal_reason(runner), "kind": "refused"})
            return
        # A first run without measurement: it starts threads and loads modules.
        runner.run(walk.run(data[:PAGE]))
        reply({"counted": counter.call, "reason": counter.reason})
        for _ in sys.stdin:
            rows = runner.run(walk.run(data))
            reply({"rows": rows, "idle_us": runner.run(walk.idle()) * 1e6})
        _remove_directory(directory)
    except BrokenPipeError:
        _remove_directory(directory)
    finally:
        walk.stop()


async def _walk(directory: str, counter: Counter) -> Walk:
    return Walk(directory, counter)


def _remove_directory(directory: str) -> None:
    """Remove the directory, because the parent that made it has died."""
    with contextlib.suppress(OSError):
        os.rmdir(directory)


def _refusal_reason(runner: asyncio.Runner) -> str:
    """The reason that the kernel refuses a ring."""
    from noria.files.ring_engine import RingEngine

    try:
        RingEngine(runner.get_loop()).close()
    except (OSError, NotImplementedError) as error:
        return error_message(error)
    return "the kernel refuses a ring"


def _fail(error: Any) -> None:
    with contextlib.suppress(BrokenPipeError):
        reply({"error": error_message(error), "kind": "failed"})


if __name__ == "__main__":
    sys.exit(main())
