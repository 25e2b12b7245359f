"""create_task and task factories behave as in the running Python's asyncio."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import sys
import weakref
from typing import Any

import pytest

import noria
from support.loops import MODELS, ORACLE, run

EAGER_FACTORY = sys.version_info >= (3, 12)
# From Python 3.14 on, create_task has the argument that only Task had before.
EAGER_START = sys.version_info >= (3, 14)

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="outside")


@pytest.fixture(params=(*MODELS, ORACLE))
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def value() -> str:
    return variable.get()


def context_with(text: str) -> contextvars.Context:
    context = contextvars.copy_context()
    context.run(variable.set, text)
    return context


CALLS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "name": {"name": "ours"},
    "name that is no string": {"name": 5},
    "no name": {"name": None},
    "context": {"context": context_with("inside")},
    "no context": {"context": None},
    "name and context": {"name": "ours", "context": context_with("inside")},
    "unknown": {"unknown": 1},
    "unknown and name": {"unknown": 1, "name": "ours"},
    "eager_start": {"eager_start": True},
    "no eager_start": {"eager_start": False, "name": "ours"},
}


async def outcome(create: Any, arguments: dict[str, Any]) -> Any:
    """The result of a call: the task's name, result and eagerness, or the exception's type."""
    coroutine = value()
    try:
        task = create(coroutine, **arguments)
    except Exception as error:
        coroutine.close()
        return type(error), str(error)
    done = task.done()
    result = await task
    default = task.get_name().startswith("Task-")
    return "Task-" if default else task.get_name(), done, result


async def outcomes() -> dict[str, Any]:
    found = {}
    loop = asyncio.get_running_loop()
    for name, arguments in CALLS.items():
        found[name] = await outcome(loop.create_task, arguments)
        found[f"asyncio.create_task, {name}"] = await outcome(asyncio.create_task, arguments)
    return found


@pytest.mark.parametrize("debug", [False, True], ids=["", "debug"])
@pytest.mark.parametrize("model", MODELS)
def test_create_task_is_asyncio_s(model: str, debug: bool) -> None:
    expected = asyncio.run(outcomes(), debug=debug)
    found = noria.run(outcomes(), debug=debug, model=model)
    assert without_class_names(found) == without_class_names(expected)
    if EAGER_START:
        assert found["eager_start"] == ("Task-", True, "outside")


def without_class_names(found: dict[str, Any]) -> dict[str, Any]:
    """Messages name the class whose method was called."""
    return {
        name: tuple(
            part.replace("Core.", "").replace("BaseEventLoop.", "")
            if isinstance(part, str)
            else part
            for part in parts
        )
        for name, parts in found.items()
    }


async def factory_calls() -> dict[str, Any]:
    """The arguments that task factories of several signatures get, and the results."""
    loop = asyncio.get_running_loop()
    passed: list[Any] = []

    def of_two(loop: Any, coroutine: Any) -> Any:
        passed.append(())
        return asyncio.Task(coroutine, loop=loop)

    def with_context(loop: Any, coroutine: Any, context: Any = None) -> Any:
        passed.append(context is not None)
        return asyncio.Task(coroutine, loop=loop, context=context)

    def of_all(loop: Any, coroutine: Any, **kwargs: Any) -> Any:
        passed.append(sorted(kwargs))
        return asyncio.Task(coroutine, loop=loop, **kwargs)

    found: dict[str, Any] = {}
    for factory in (of_two, with_context, of_all):
        loop.set_task_factory(factory)
        assert loop.get_task_factory() is factory
        for name, arguments in CALLS.items():
            passed.clear()
            came = await outcome(loop.create_task, arguments)
            found[f"{factory.__name__}, {name}"] = (came[0], *came[1:], *passed)
    loop.set_task_factory(None)
    assert loop.get_task_factory() is None
    found["without"] = await outcome(loop.create_task, {"name": "again"})
    with pytest.raises(TypeError):
        loop.set_task_factory(3)  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize("debug", [False, True], ids=["", "debug"])
@pytest.mark.parametrize("model", MODELS)
def test_a_task_factory_is_passed_what_asyncio_passes(model: str, debug: bool) -> None:
    expected = asyncio.run(factory_calls(), debug=debug)
    found = noria.run(factory_calls(), debug=debug, model=model)
    assert without_class_names(found) == without_class_names(expected)


@pytest.mark.skipif(not EAGER_FACTORY, reason="eager tasks came with Python 3.12")
def test_the_eager_task_factory(model: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore]
        order: list[str] = []

        async def short() -> str:
            assert asyncio.current_task() is not None
            order.append("short")
            return variable.get()

        async def long() -> str:
            order.append("long begins")
            await asyncio.sleep(0)
            order.append("long ends")
            return variable.get()

        task = asyncio.create_task(short(), name="ours", context=context_with("inside"))
        assert task.done()
        assert task.result() == "inside"
        assert task.get_name() == "ours"
        waits = asyncio.create_task(long())
        order.append("created")
        assert not waits.done()
        assert await waits == "outside"
        async with asyncio.TaskGroup() as group:
            member = group.create_task(short(), name="member")
            assert member.done()
            assert member.get_name() == "member"
        assert order == ["short", "long begins", "created", "long ends", "short"]

        async def fails() -> None:
            raise ValueError("at once")

        failed = asyncio.create_task(fails())
        assert failed.done()
        with pytest.raises(ValueError, match="at once"):
            await failed

    run(main(), model)


@pytest.mark.skipif(not EAGER_START, reason="create_task has eager_start from Python 3.14 on")
def test_eager_start_of_one_task(model: str) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        order: list[str] = []

        async def work(name: str) -> str:
            order.append(f"{name} begins")
            await asyncio.sleep(0)
            order.append(f"{name} ends")
            return variable.get()

        context = context_with("inside")
        eager = loop.create_task(work("eager"), eager_start=True, context=context, name="ours")
        lazy = loop.create_task(work("lazy"), eager_start=False)
        usual = loop.create_task(work("usual"))
        order.append("created")
        assert await asyncio.gather(eager, lazy, usual) == ["inside", "outside", "outside"]
        assert eager.get_name() == "ours"
        assert order[:2] == ["eager begins", "created"]
        assert order.index("lazy begins") < order.index("usual begins")

        loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore]
        order.clear()
        async with asyncio.TaskGroup() as group:
            group.create_task(work("lazy"), eager_start=False)  # type: ignore[call-arg,unused-ignore]
            order.append("created")
        assert order == ["created", "lazy begins", "lazy ends"]

    run(main(), model)


def test_a_closed_loop_creates_no_task(model: str) -> None:
    loop = asyncio.new_event_loop() if model == ORACLE else noria.new_event_loop(model)
    loop.close()
    for arguments in ({}, {"name": "ours"}):
        coroutine = value()
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            loop.create_task(coroutine, **arguments)
        assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED
        coroutine.close()


def test_a_failed_task_is_in_no_reference_cycle(model: str) -> None:
    async def main() -> None:
        async def fails() -> None:
            raise ValueError

        def create() -> weakref.ref[asyncio.Task[None]]:
            task = asyncio.get_running_loop().create_task(fails())
            tasks.append(task)
            return weakref.ref(task)

        tasks: list[asyncio.Task[None]] = []
        reference = create()
        await asyncio.wait(tasks)
        assert isinstance(tasks.pop().exception(), ValueError)
        await asyncio.sleep(0)
        assert reference() is None

    gc.collect()
    gc.disable()
    try:
        run(main(), model)
    finally:
        gc.enable()


def test_debug_mode_knows_where_a_task_was_created(model: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        for arguments in ({}, {"name": "ours"}):
            task: Any = loop.create_task(value(), **arguments)
            assert task._source_traceback[-1].name == "main"
            await task

    run(main(), model)
