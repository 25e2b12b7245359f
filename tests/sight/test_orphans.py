"""Tasks that nothing can resume are told from those that something will."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

import noria
from noria.sight.orphans import is_orphaned

pending: dict[str, asyncio.Future[str]] = {}


async def ask(key: str) -> str:
    answer = asyncio.get_running_loop().create_future()
    pending[key] = answer
    return await answer


async def nested(key: str) -> str:
    return await ask(key)


async def until_cancelled() -> None:
    await asyncio.Future()


async def queued() -> None:
    await asyncio.Queue().get()


def awaited(task: asyncio.Task) -> weakref.ref:
    """The future at the end of what a task awaits, as the garbage collector sees it."""
    awaitable = task.get_coro()
    while getattr(awaitable, "cr_await", None) is not None:
        awaitable = awaitable.cr_await
    (future,) = (each for each in gc.get_referents(awaitable) if isinstance(each, asyncio.Future))
    return weakref.ref(future)


@pytest.mark.parametrize("run", [asyncio.run, noria.run])
def test_a_task_whose_future_is_lost_is_an_orphan(run):
    async def main() -> None:
        waits = [ask("a"), nested("b"), ask("c"), until_cancelled(), queued()]
        tasks = [asyncio.create_task(each) for each in [*waits, asyncio.sleep(60)]]
        await asyncio.sleep(0.01)
        futures = [awaited(task) for task in tasks]
        gc.collect()
        assert [is_orphaned(*pair) for pair in zip(tasks, futures, strict=True)] == [False] * 6
        del pending["a"], pending["b"]
        lost = [is_orphaned(*pair) for pair in zip(tasks, futures, strict=True)]
        assert lost == [True, True, False, False, False, False]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        pending.clear()

    run(main())
