"""What counts as a run of a handler, and as a failed one, on every broker."""

from __future__ import annotations

import asyncio
import functools
import signal
import traceback
from collections.abc import Callable, Coroutine
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest

import noria
from noria.bus import dispatch
from noria.bus.event import Event
from noria.bus.handler import Registration, runner
from noria.bus.threads import HandlerThreads
from support.loops import run_with_deadline, until

DEADLINE = 40.0  # seconds
FAST = {"backoff": 0.01, "max_backoff": 0.02}

pytestmark = pytest.mark.usefixtures("quiet")


def run(main: Coroutine[Any, Any, None]) -> None:
    run_with_deadline(main, DEADLINE)


async def letters(bus: noria.Bus, type: str, count: int = 1) -> list[tuple[str, int]]:
    """Wait until a type has `count` dead letters; return their errors and attempts."""
    while len(found := await bus.dead(type=type)) < count:
        await asyncio.sleep(0.01)
    return [(letter.error, letter.attempts) for letter in found]


def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*arguments: Any) -> Any:
        return function(*arguments)

    return wrapper


@pytest.mark.parametrize("wrap", [decorated, lambda function: lambda event: function(event)])
def test_a_coroutine_that_a_function_returns_is_awaited(url: str, type: str, wrap: Any) -> None:
    async def main() -> None:
        bus = noria.Bus(url)
        loops: list[asyncio.AbstractEventLoop] = []

        async def handler(event: Event) -> None:
            loops.append(asyncio.get_running_loop())
            await asyncio.sleep(0)
            if event.attempt == 1:
                raise ValueError("not yet")

        bus.on(type, wrap(handler), group="g", **FAST)
        async with bus:
            await bus.emit(type)
            stats = bus.registrations[0].stats
            await until(lambda: stats.handled)
        assert loops == [asyncio.get_running_loop()] * 2
        assert (stats.failed, stats.retried) == (1, 1)

    run(main())


def test_a_coroutine_that_a_function_returns_is_cancelled_after_the_grace() -> None:
    async def main() -> None:
        bus = noria.Bus("memory:")
        ends: list[str] = []
        started = asyncio.Event()

        async def handler(event: Event) -> None:
            started.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ends.append("cancelled")
                raise

        bus.on("a.b", lambda event: handler(event), group="g")
        await bus.start()
        await bus.emit("a.b")
        await started.wait()
        await bus.drain(grace=0)
        assert ends == ["cancelled"]
        assert bus.registrations[0].stats.returned == 1

    run(main())


def test_a_coroutine_that_a_coroutine_function_returns_is_awaited() -> None:
    async def main() -> None:
        bus = noria.Bus("memory:")
        ran: list[Event] = []

        async def inner(event: Event) -> None:
            ran.append(event)

        @bus.on("a.b", group="g")
        async def handler(event: Event) -> Any:
            return inner(event)

        async with bus:
            await bus.emit("a.b")
            await until(lambda: bus.registrations[0].stats.handled)
        assert len(ran) == 1

    run(main())


def generator(event: Event) -> Any:
    yield event


async def async_generator(event: Event) -> Any:
    yield event


class CallableGenerator:
    def __call__(self, event: Event) -> Any:
        yield event


GENERATORS = [
    *(generator, async_generator, CallableGenerator(), functools.partial(async_generator)),
]


@pytest.mark.parametrize("handler", GENERATORS)
def test_a_generator_function_is_refused(handler: Any) -> None:
    with pytest.raises(TypeError, match="is a generator function: calling it runs nothing"):
        noria.Bus("memory:").on("a.b", handler)


@pytest.mark.parametrize("handler", [generator, async_generator])
def test_a_run_that_returns_a_generator_fails(handler: Any) -> None:
    async def main() -> None:
        bus = noria.Bus("memory:")
        bus.on("a.b", decorated(handler), group="g", retries=0)
        async with bus:
            await bus.emit("a.b")
            message = "TypeError: the handler returned a generator, which does not run by itself"
            assert await letters(bus, "a.b") == [(message, 1)]

    run(main())


async def exits_at_once(event: Event) -> None:
    raise SystemExit(3)


async def exits_later(event: Event) -> None:
    await asyncio.sleep(0.001)
    raise SystemExit(3)


def exits_in_a_thread(event: Event) -> None:
    raise SystemExit(3)


async def interrupts(event: Event) -> None:
    await asyncio.sleep(0.001)
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("handler", "error"),
    [
        (exits_at_once, "SystemExit: 3"),
        (exits_later, "SystemExit: 3"),
        (exits_in_a_thread, "SystemExit: 3"),
        (interrupts, "KeyboardInterrupt: KeyboardInterrupt"),
    ],
)
def test_a_handler_that_exits_has_failed(url: str, type: str, handler: Any, error: str) -> None:
    async def main() -> None:
        bus = noria.Bus(url)
        reported: list[BaseException | None] = []

        def on_handled(_: Registration, event: Event, __: float, error: Any) -> None:
            reported.append(error)

        bus.on_handled = on_handled
        bus.on(type, handler, group="g", retries=1, **FAST)
        async with bus:
            await bus.emit(type)
            assert await letters(bus, type) == [(error, 2)]
        assert [repr(each) for each in reported] == [repr(each) for each in reported[:1]] * 2
        assert isinstance(reported[0], SystemExit | KeyboardInterrupt)

    run(main())


def test_ctrl_c_that_nothing_handles_ends_the_program() -> None:
    async def main() -> None:
        bus = noria.Bus("memory:")

        @bus.on("a.b", group="g")
        async def handler(event: Event) -> None:
            await asyncio.sleep(0)
            signal.raise_signal(signal.SIGINT)

        await bus.start()
        await bus.emit("a.b")
        await asyncio.Event().wait()

    # Without asyncio.Runner, which handles SIGINT.
    loop = asyncio.new_event_loop()
    try:
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(main())
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


def test_ctrl_c_in_a_handler_ends_run() -> None:
    bus = noria.Bus("memory:")

    async def main() -> None:
        @bus.on("a.b", group="g")
        async def handler(event: Event) -> None:
            signal.raise_signal(signal.SIGINT)

        bus.emit("a.b")
        await bus.run()

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    assert bus.registrations[0].stats.handled == 1


@pytest.mark.parametrize("waits", [False, True])
def test_a_second_ctrl_c_in_a_handler_is_no_failed_run(waits: bool) -> None:
    """asyncio.Runner raises KeyboardInterrupt then: the event became a dead letter."""
    bus = noria.Bus("memory:")
    stats = []

    async def main() -> None:
        @bus.on("a.b", group="g", retries=0)
        async def handler(event: Event) -> None:
            if waits:
                await asyncio.sleep(0)
            for _ in range(2):
                signal.raise_signal(signal.SIGINT)

        stats.append(bus.registrations[0].stats)
        bus.emit("a.b")
        await bus.run()

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    assert (stats[0].failed, stats[0].dead) == (0, 0)


class Unprintable(Exception):
    def __str__(self) -> str:
        return "code " + self.args[0]  # type: ignore[no-any-return]


def test_an_exception_that_cannot_be_printed_is_a_failure_as_any_other(url: str, type: str) -> None:
    async def main() -> None:
        bus = noria.Bus(url, concurrency=1)
        handled: list[int] = []

        @bus.on(type, group="g", retries=1, **FAST)
        async def handler(event: Event) -> None:
            if event.data["number"] == 0:
                raise Unprintable(5)
            handled.append(event.data["number"])

        async with bus:
            for number in range(3):
                await bus.emit(type, number=number)
            assert await letters(bus, type) == [("Unprintable: __str__ raised TypeError", 2)]
            await until(lambda: len(handled) == 2)

    run(main())


def test_on_handled_that_raises_changes_nothing() -> None:
    async def main() -> None:
        bus = noria.Bus("memory:", concurrency=1)

        def on_handled(*_: Any) -> None:
            raise BrokenPipeError

        bus.on_handled = on_handled

        @bus.on("a.b", group="g", retries=0)
        async def handler(event: Event) -> None:
            if event.data["fail"]:
                raise ValueError("no")

        async with bus:
            for fail in (False, True, False):
                await bus.emit("a.b", fail=fail)
            stats = bus.registrations[0].stats
            await until(lambda: (stats.handled, stats.dead) == (2, 1))
            assert await letters(bus, "a.b") == [("ValueError: no", 1)]

    run(main())


def test_an_event_is_given_out_again_if_its_letter_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    encode_letter = dispatch.encode_letter

    def encode_later(*arguments: Any, **options: Any) -> bytes:
        if options["attempts"] == 1:
            raise RuntimeError("a fault in noria")
        return encode_letter(*arguments, **options)

    monkeypatch.setattr(dispatch, "encode_letter", encode_later)
    monkeypatch.setattr(dispatch, "REFUSED_LETTER_DELAY", 0.01)

    async def main() -> None:
        caplog.set_level("ERROR", "noria.bus")
        bus = noria.Bus("memory:", concurrency=1)

        @bus.on("a.b", group="g", retries=0)
        async def handler(event: Event) -> None:
            raise ValueError("no")

        async with bus:
            await bus.emit("a.b")
            assert await letters(bus, "a.b") == [("ValueError: no", 2)]
        assert "a fault in noria" in caplog.text
        assert "is given out again" in caplog.text
        assert bus.registrations[0].stats.dead == 1

    run(main())


def test_a_task_has_the_name_and_the_place_of_its_handler() -> None:
    for handler in (exits_at_once, exits_in_a_thread, functools.partial(exits_later)):
        coroutine = runner(handler, HandlerThreads(1))(Event("a.b"))
        code = getattr(handler, "func", handler).__code__  # type: ignore[attr-defined]
        found = coroutine.cr_code  # type: ignore[attr-defined]
        coroutine.close()
        assert (found.co_qualname, found.co_filename) == (code.co_qualname, code.co_filename)
        assert found.co_firstlineno == code.co_firstlineno
        assert {line for *_, line in found.co_lines()} == {code.co_firstlineno}


def test_a_mock_is_a_handler() -> None:
    for mock in (Mock(return_value=None), AsyncMock()):
        asyncio.run(runner(mock, HandlerThreads(1))(Event("a.b")))
        assert mock.call_count == 1


def test_a_traceback_begins_in_the_handler() -> None:
    async def fails(event: Event) -> None:
        raise ValueError("no")

    try:
        asyncio.run(runner(fails, HandlerThreads(1))(Event("a.b")))  # type: ignore[arg-type]
    except ValueError as error:
        frames = traceback.extract_tb(error.__traceback__)
    names = [frame.name for frame in frames if frame.filename == __file__]
    assert names[-2:] == ["fails", "fails"]


def test_stop_iteration_in_a_thread_is_a_failed_run(url: str, type: str) -> None:
    async def main() -> None:
        bus = noria.Bus(url)

        @bus.on(type, group="g", retries=0)
        def handler(event: Event) -> None:
            next(iter(()))

        async with bus:
            await bus.emit(type)
            assert await letters(bus, type) == [
                ("RuntimeError: the handler raised StopIteration", 1)
            ]

    run(main())
