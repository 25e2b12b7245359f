"""Fixtures of the file tests: every loop and engine, results and errors compared as values."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from typing import Any

import pytest

from support.loops import MODELS, ORACLE, run

try:
    import uvloop
except ImportError:
    uvloop = None
else:
    # uvloop opens two pipes for its first loop and never closes them.
    asyncio.Runner(loop_factory=uvloop.new_event_loop).run(asyncio.sleep(0))

LOOPS_AND_ENGINES = [
    *((model, "ring") for model in (*MODELS, ORACLE, "uvloop")),
    (ORACLE, "threads"),
]


class Runner:
    """Runs coroutines on one loop, with one kind of engine."""

    def __init__(self, loop: str, engine: str) -> None:
        self.loop, self.engine = loop, engine

    def __call__(self, main: Coroutine[Any, Any, Any]) -> Any:
        async def checked() -> Any:
            from noria.files.engine import current

            assert current().name == self.engine
            return await main

        if self.loop == "uvloop":
            assert uvloop is not None
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                return runner.run(checked())
        return run(checked(), self.loop)


def ring_works() -> bool:
    """Return whether the kernel allows io_uring rings."""

    async def engine_name() -> str:
        from noria.files.engine import make

        engine = make(asyncio.get_running_loop())
        engine.close()
        return engine.name

    return os.environ.get("NORIA_FILES") != "threads" and asyncio.run(engine_name()) == "ring"


def make_runner(way: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> Runner:
    if way[1] == "ring" and not ring_works():
        pytest.skip("io_uring is refused here")
    if way[0] == "uvloop" and uvloop is None:
        pytest.skip("no uvloop")
    monkeypatch.setenv("NORIA_FILES", way[1])
    return Runner(*way)


async def result_or_error(awaitable: Any) -> Any:
    """Return the result, or the error's type, errno and filename."""
    try:
        return await awaitable
    except Exception as error:
        return describe_error(error)


def describe_error(error: Exception) -> tuple[Any, ...]:
    return type(error).__name__, getattr(error, "errno", None), getattr(error, "filename", None)
