"""The arguments of call_soon, call_later and create_task: usual calls and all the others."""

from __future__ import annotations

import asyncio
import contextvars
import math
import time
from collections.abc import Callable
from typing import Any

import pytest

import noria
from support.loops import MODELS, ORACLE, run

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")

# Equal to the name "context", but another string object, as compiled callers may pass it.
CONTEXT = "".join(("con", "text"))


@pytest.fixture(params=(*MODELS, ORACLE))
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


Schedule = Callable[..., Any]


def soon(loop: asyncio.AbstractEventLoop) -> Schedule:
    return loop.call_soon


def later(loop: asyncio.AbstractEventLoop) -> Schedule:
    return lambda *args, **options: loop.call_later(0, *args, **options)


def at(loop: asyncio.AbstractEventLoop) -> Schedule:
    return lambda *args, **options: loop.call_at(loop.time(), *args, **options)


def threadsafe(loop: asyncio.AbstractEventLoop) -> Schedule:
    return loop.call_soon_threadsafe


@pytest.fixture(params=(soon, later, at, threadsafe))
def method(request: pytest.FixtureRequest) -> Callable[[asyncio.AbstractEventLoop], Schedule]:
    return request.param  # type: ignore[no-any-return]


class Receiver:
    def __init__(self) -> None:
        self.got: list[Any] = []

    def receive(self, *args: Any) -> None:
        self.got.append((*args, variable.get()))


def test_a_callback_gets_its_arguments_and_context(model: str, method: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        schedule = method(loop)
        receiver = Receiver()
        context = contextvars.copy_context()
        context.run(variable.set, "set")
        done = loop.create_future()
        for args in ((), (1,), ((),), ((1, 2),), (None,), (1, 2), tuple(range(20))):
            schedule(receiver.receive, *args)
            schedule(receiver.receive, *args, context=context)
            schedule(receiver.receive, *args, context=None)
            schedule(receiver.receive, *args, **{CONTEXT: context})
            handle = schedule(receiver.receive, *args)
            assert handle._args == args
            assert handle._callback == receiver.receive
            done = loop.create_future()
            schedule(done.set_result, None)
            await done
            expected = [(*args, s) for s in ("unset", "set", "unset", "set", "unset")]
            assert receiver.got == expected
            receiver.got.clear()

    run(main(), model)


def test_wrong_arguments_are_refused(model: str, method: Any) -> None:
    async def main() -> None:
        schedule = method(asyncio.get_running_loop())
        with pytest.raises(TypeError):
            schedule()
        with pytest.raises(TypeError, match="unexpected keyword argument 'contxt'"):
            schedule(int, contxt=None)
        with pytest.raises(TypeError, match="unexpected keyword argument 'more'"):
            schedule(int, context=contextvars.copy_context(), more=1)

    run(main(), model)


@pytest.mark.parametrize("delay", [0, 0.0, -1, -0.5, True, 1e-9, 1.5])
def test_delays_of_every_number_type(model: str, delay: float) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        before = loop.time()
        timer = loop.call_later(delay, int)
        assert before + delay <= timer.when() <= loop.time() + delay + 0.1
        timer.cancel()

    run(main(), model)


@pytest.mark.parametrize("delay", ["1", b"1", [], object()])
def test_a_delay_that_is_no_number_is_refused(model: str, delay: Any) -> None:
    async def main() -> None:
        with pytest.raises(TypeError):
            asyncio.get_running_loop().call_later(delay, int)

    run(main(), model)


def test_an_exception_of_a_callback_with_one_argument_names_it(model: str) -> None:
    def fail(value: str) -> None:
        raise ValueError(value)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        reported: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _, context: reported.append(context))
        loop.call_soon(fail, "the argument")
        await asyncio.sleep(0)
        assert ".fail(" in reported[0]["message"]
        assert str(reported[0]["exception"]) == "the argument"

    run(main(), model)


def test_tasks_get_their_name_and_context(model: str) -> None:
    async def value() -> str:
        return variable.get()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        context = contextvars.copy_context()
        context.run(variable.set, "set")
        for options, name, expected in (
            ({}, "Task-", "unset"),
            ({"name": None}, "Task-", "unset"),
            ({"name": "mine"}, "mine", "unset"),
            ({"context": context}, "Task-", "set"),
            ({"context": None}, "Task-", "unset"),
            ({CONTEXT: context}, "Task-", "set"),
            ({"name": "mine", "context": context}, "mine", "set"),
        ):
            task = loop.create_task(value(), **options)  # type: ignore[arg-type]
            assert task.get_name().startswith(name)
            assert task.get_loop() is loop
            assert task in asyncio.all_tasks()
            assert await task == expected
        for args in ((), (value,)):
            with pytest.raises(TypeError):
                loop.create_task(*args).cancel()

    run(main(), model)


def test_a_replaced_task_class_is_used(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Task(asyncio.Task):  # type: ignore[type-arg]
        pass

    async def main() -> None:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(asyncio.tasks, "Task", Task)
        replaced = loop.create_task(asyncio.sleep(0))
        monkeypatch.undo()
        original = loop.create_task(asyncio.sleep(0))
        await asyncio.gather(replaced, original)
        assert type(replaced) is Task
        assert type(original) is asyncio.Task

    run(main(), model)


def test_a_task_factory_can_be_set_and_removed(model: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        made: list[Any] = []

        def factory(loop: Any, coro: Any, **options: Any) -> asyncio.Task[Any]:
            made.append(coro)
            return asyncio.Task(coro, loop=loop, **options)

        assert loop.get_task_factory() is None
        loop.set_task_factory(factory)
        assert loop.get_task_factory() is factory
        await loop.create_task(asyncio.sleep(0))
        loop.set_task_factory(None)
        await loop.create_task(asyncio.sleep(0))
        assert len(made) == 1

    run(main(), model)


def test_a_subclass_may_override_the_methods() -> None:
    calls: list[str] = []

    class Loop(noria.EventLoop):
        def call_soon(self, callback: Any, *args: Any, **options: Any) -> asyncio.Handle:
            calls.append("call_soon")
            return super().call_soon(callback, *args, **options)

        def call_later(self, delay: float, callback: Any, *args: Any, **options: Any) -> Any:
            calls.append("call_later")
            return super().call_later(delay, callback, *args, **options)

        def create_task(self, coro: Any, **options: Any) -> Any:
            calls.append("create_task")
            return super().create_task(coro, **options)

    async def main() -> None:
        await asyncio.gather(asyncio.sleep(0.001))

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(main())
    assert {"call_soon", "call_later", "create_task"} <= set(calls)


def test_the_methods_of_another_class_refuse_the_loop() -> None:
    # The compiled methods trust the type of their object.
    for name in ("call_soon", "call_later", "create_task", "time", "call_at", "create_future"):
        method = getattr(noria.EventLoop, name)
        with pytest.raises(TypeError):
            method(object(), int)
        assert method.__doc__


def test_a_closed_loop_refuses_calls_and_tasks(model: str) -> None:
    loop = asyncio.new_event_loop() if model == ORACLE else noria.new_event_loop(model)
    loop.close()
    for refused in (
        lambda: loop.call_soon(int),
        lambda: loop.call_later(1, int),
        lambda: loop.call_at(1, int),
    ):
        with pytest.raises(RuntimeError, match="closed"):
            refused()
    coroutine = asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="closed"):
        loop.create_task(coroutine)
    coroutine.close()


def test_call_later_calls_an_overridden_call_at(model: str) -> None:
    deadlines: list[float] = []
    base: Any = asyncio.SelectorEventLoop if model == ORACLE else noria.EventLoop

    class Loop(base):  # type: ignore[misc]
        def call_at(self, when: float, callback: Any, *args: Any, **options: Any) -> Any:
            deadlines.append(when)
            return super().call_at(when, callback, *args, **options)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        before = loop.time()
        await asyncio.sleep(0.001)
        loop.call_later(100, int, "7").cancel()
        assert before < deadlines[0] < before + 50 < deadlines[1]

    arguments = () if model == ORACLE else (model,)
    with asyncio.Runner(loop_factory=lambda: Loop(*arguments)) as runner:
        runner.run(main())
    assert len(deadlines) == 2


@pytest.mark.parametrize("delay", [-1e12, -1e30, -math.inf, math.nan])
def test_a_delay_far_in_the_past_or_not_a_number_is_due_at_once(model: str, delay: float) -> None:
    if model == ORACLE and math.isnan(delay):
        pytest.skip("select() of asyncio's loop raises ValueError")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for set_timer in (loop.call_later, loop.call_at):
            due = asyncio.Event()
            set_timer(delay, due.set)
            # Another thread wakes a loop that sleeps.
            await asyncio.to_thread(time.sleep, 0.01)
            await asyncio.sleep(0)
            assert due.is_set()

    run(main(), model)
