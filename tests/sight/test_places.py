"""Where a coroutine is, also while it runs."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextvars import copy_context
from functools import partial
from typing import Any

import pytest

from noria.sight.places import await_stack, code_of
from support.running import environment

# CPython counts in the code itself, behind an instruction, how often it could not specialize it.
# Before Python 3.13, cr_await takes some of these numbers for the instruction after an await.
RUNNING = """
import asyncio, functools
from noria.sight.places import await_stack

stacks = set()

def look():
    for each in running:
        frames, awaited = await_stack(each)
        stacks.add((tuple(frame.code.co_name for frame in frames), awaited))

look = functools.partial(look)

async def inner():
    for _ in range(5000):
        look()

def generator():
    for _ in range(5000):
        yield look()

async def asynchronous():
    for _ in range(5000):
        yield look()

async def outer():
    running.append(inner())
    await running[0]
    running[0] = generator()
    list(running[0])
    running[0] = asynchronous()
    async for _ in running[0]:
        pass

running = []
asyncio.run(outer())
print(sorted(stacks))
"""


def test_what_runs_awaits_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", RUNNING],
        env=environment(), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[0] == str(
        [(("asynchronous",), None), (("generator",), None), (("inner",), None)]
    )


class Awaitable:
    def __await__(self) -> Any:
        return (yield from asyncio.sleep(600).__await__())


async def generate() -> Any:
    yield await Awaitable()


async def iterate() -> None:
    async for _ in generate():
        pass


@pytest.mark.parametrize("steps", [0, 1])
def test_the_chain_of_what_is_suspended(steps: int) -> None:
    async def main() -> None:
        task = asyncio.ensure_future(iterate())
        for _ in range(steps):
            await asyncio.sleep(0)
        frames, awaited = await_stack(task.get_coro())
        names = [each.code.co_name for each in frames]
        if steps:
            assert names == ["iterate", "generate", "__await__", "sleep"]
            assert isinstance(awaited, asyncio.Future)
        else:
            assert (names, awaited) == (["iterate"], None)
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(main())


def test_the_code_of_a_job_is_that_of_the_function_which_a_context_runs() -> None:
    def job() -> None: ...

    # As asyncio.to_thread submits it.
    assert code_of(partial(copy_context().run, job)) is job.__code__
    assert code_of(partial(copy_context().run, partial(job))) is job.__code__
    assert code_of(partial(job)) is job.__code__
    run = copy_context().run
    assert code_of(partial(run)) == run
