"""Handles, clocks and debug mode, as tools that inspect an asyncio loop see them."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import socket
import sys
import threading
import time
import weakref
from typing import Any
from unittest import mock

import pytest

import noria
from support.loops import MODELS, ORACLE, Keeper, count, run


@pytest.fixture(params=(*MODELS, ORACLE))
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_handles_have_what_tools_look_at(model: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        handle = loop.call_soon(int)
        assert isinstance(handle._context, contextvars.Context)
        assert handle._loop is loop
        timer = loop.call_later(60, int)
        assert timer._when == timer.when()
        assert timer._scheduled
        assert isinstance(timer._context, contextvars.Context)
        assert timer._loop is loop
        timer.cancel()
        handle.cancel()

    run(main(), model)


def test_handles_can_be_referred_to_weakly(model: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        died: list[Any] = []
        for make in (
            lambda: loop.call_soon(int),
            lambda: loop.call_later(0, int),
            lambda: loop.call_later(60, int),
            lambda: loop.call_soon_threadsafe(int),
        ):
            # Weak references to a handle do not refer to the next one in its memory.
            for _ in range(3):
                handle: Any = make()
                reference = weakref.ref(handle, died.append)
                assert reference() is handle
                handle.cancel()
                del handle
                for _ in range(3):
                    await asyncio.sleep(0)
                gc.collect()
                assert reference() is None
        assert len(died) == 12

    run(main(), model)


def test_a_callback_that_cancels_its_own_handle_keeps_its_arguments(model: str) -> None:
    class Argument:
        pass

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for start in (loop.call_soon, lambda *call: loop.call_later(0, *call)):
            for raises in (False, True):
                ended = asyncio.Event()
                handles: list[Any] = []
                found: list[Any] = []
                reports: list[Any] = []
                loop.set_exception_handler(
                    lambda _, report, reports=reports: reports.append(report)
                )

                def cancel(
                    argument: Argument,
                    handles: list[Any] = handles,
                    found: list[Any] = found,
                    ended: asyncio.Event = ended,
                    raises: bool = raises,
                ) -> None:
                    found.append(weakref.ref(argument))
                    del argument
                    handles[0].cancel()
                    found.append(handles[0].cancelled())
                    loop.call_soon(ended.set)
                    if raises:
                        raise ZeroDivisionError

                handles.append(start(cancel, Argument()))
                await ended.wait()
                assert len(reports) == raises
                reports.clear()
                assert found[0]() is None
                assert found[1]
                assert handles[0].cancelled()
                assert "cancelled" in repr(handles[0])

    run(main(), model)


def test_a_replaced_time_moves_the_timers(model: str) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        now = loop.time()
        fired: list[str] = []
        clock = mock.Mock(side_effect=lambda: now)
        with mock.patch.object(loop, "time", clock):
            loop.call_later(3600, fired.append, "hour")
            loop.call_at(now + 60, fired.append, "minute")
            await asyncio.sleep(0)
            assert fired == []
            now += 61
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert fired == ["minute"]
            now += 3600
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert fired == ["minute", "hour"]
        # by the loop's own clock again
        await asyncio.sleep(0.001)

    run(main(), model)


def test_a_subclass_has_its_own_clock(model: str) -> None:
    class Shifted(asyncio.SelectorEventLoop if model == ORACLE else noria.EventLoop):  # type: ignore[misc]
        shift = 0.0

        def time(self) -> float:
            return super().time() + self.shift

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        waiter = loop.create_future()
        loop.call_later(7200, waiter.set_result, "late")
        await asyncio.sleep(0)
        loop.shift = 7200
        assert await waiter == "late"

    with asyncio.Runner(loop_factory=Shifted if model == ORACLE else lambda: Shifted(model)) as it:
        it.run(main())


def test_debug_mode_knows_where_a_handle_was_made(model: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        for handle in (
            loop.call_soon(int),
            loop.call_later(60, int),
            loop.call_at(loop.time() + 60, int),
            loop.call_soon_threadsafe(int),
        ):
            last = handle._source_traceback[-1]
            assert last.filename == __file__
            assert last.name == "main"
            handle.cancel()

    run(main(), model)


def test_a_closed_loop_needs_no_garbage_collector(model: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        mine, peer = socket.socketpair()
        mine.setblocking(False)
        _, keeper = await loop.create_connection(Keeper, sock=mine)
        peer.close()
        await keeper.lost
        loop.call_later(60, int)

    gc.collect()
    gc.disable()
    try:
        loop: Any = asyncio.new_event_loop() if model == ORACLE else noria.new_event_loop(model)
        loop.run_until_complete(main())
        loop.close()
        gone = weakref.ref(loop)
        del loop
        assert gone() is None
    finally:
        gc.enable()


def test_a_loop_keeps_nothing_in_its_dict() -> None:
    """With an empty instance dict, the interpreter finds the loop's methods faster."""
    loop = noria.new_event_loop()
    try:
        loop.run_until_complete(asyncio.sleep(0))
        assert vars(loop) == {}
    finally:
        loop.close()


def test_timers_can_be_kept_in_sets(model: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        timers = {loop.call_later(60, int), loop.call_later(61, int)}
        assert len(timers) == 2
        for timer in timers:
            assert timer in timers
            timer.cancel()
        weak = weakref.WeakSet(timers)
        assert len(weak) == 2

    run(main(), model)


blocking = pytest.mark.skipif(
    sys.version_info < (3, 14),
    reason="handles block the cancellation of other threads from Python 3.14 on",
)
debug = pytest.mark.parametrize("debug", [False, True], ids=["", "debug"])


def run_in_mode(main: Any, model: str, debug: bool) -> Any:
    if model == ORACLE:
        return asyncio.run(main, debug=debug)
    return noria.run(main, debug=debug, model=model)


def is_blocked(thread: threading.Thread) -> bool:
    """Whether the thread is still blocked in `cancel` or `cancelled`."""
    thread.join(0.05)
    return thread.is_alive()


@blocking
@debug
@pytest.mark.parametrize("method", ["cancel", "cancelled"])
def test_other_threads_wait_for_a_threadsafe_callback(model: str, method: str, debug: bool) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        order: list[str] = []
        started = threading.Event()

        def look() -> None:
            started.wait()
            getattr(handle, method)()
            order.append(method)

        def callback() -> None:
            started.set()
            assert all(is_blocked(thread) for thread in threads)
            order.append("callback")

        threads = [threading.Thread(target=look) for _ in range(3)]
        handle = loop.call_soon_threadsafe(callback)
        for thread in threads:
            thread.start()
        await loop.run_in_executor(None, threads[0].join)
        for thread in threads[1:]:
            await loop.run_in_executor(None, thread.join)
        assert order == ["callback", method, method, method]
        assert handle.cancelled() == (method == "cancel")

    run_in_mode(main(), model, debug)


@blocking
@debug
@pytest.mark.parametrize("error", [ValueError("it is wrong"), KeyboardInterrupt()], ids=repr)
def test_a_threadsafe_callback_that_raises_unblocks_other_threads(
    model: str, error: BaseException, debug: bool
) -> None:
    """They wait until the exception is reported, and the report names the callback."""
    reports: list[str] = []
    threads: list[threading.Thread] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(
            lambda loop, context: reports.append(
                f"{context['message']} {is_blocked(threads[0])} {context['exception']!r}"
            )
        )
        started = threading.Event()

        def look() -> None:
            started.wait()
            handle.cancel()

        def callback() -> None:
            started.set()
            assert is_blocked(threads[0])
            raise error

        threads.append(threading.Thread(target=look))
        handle = loop.call_soon_threadsafe(callback)
        threads[0].start()
        await loop.run_in_executor(None, threads[0].join)

    if isinstance(error, KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt):
            run_in_mode(main(), model, debug)
        threads[0].join()
        assert reports == []
    else:
        run_in_mode(main(), model, debug)
        (report,) = reports
        assert "callback" in report
        assert "True ValueError('it is wrong')" in report


@debug
def test_a_threadsafe_callback_may_cancel_its_own_handle(model: str, debug: bool) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        done = loop.create_future()

        def callback() -> None:
            handle.cancel()
            assert handle.cancelled()
            done.set_result(None)

        handle = loop.call_soon_threadsafe(callback)
        await done
        assert handle.cancelled()

    run_in_mode(main(), model, debug)


@debug
def test_another_thread_cancels_a_threadsafe_callback_before_it_runs(
    model: str, debug: bool
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        called: list[int] = []

        def cancel() -> None:
            handle = loop.call_soon_threadsafe(called.append, 1)
            assert isinstance(handle, asyncio.Handle)
            handle.cancel()
            assert handle.cancelled()

        thread = threading.Thread(target=cancel)
        thread.start()
        thread.join()
        for _ in range(3):
            await asyncio.sleep(0)
        assert called == []

    run_in_mode(main(), model, debug)


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="there it blocks, as asyncio's does")
def test_a_callback_may_wait_for_the_thread_that_cancels_it_before_python_3_14(model: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        started, done = threading.Event(), loop.create_future()

        def cancel() -> None:
            started.wait()
            handle.cancel()

        def callback() -> None:
            started.set()
            thread.join()
            done.set_result(None)

        thread = threading.Thread(target=cancel)
        handle = loop.call_soon_threadsafe(callback)
        thread.start()
        await done
        assert handle.cancelled()

    run(main(), model)


@debug
def test_threads_that_cancel_race_against_the_loop(model: str, debug: bool) -> None:
    """After `cancel` returns, the callback has ended or never runs (from Python 3.14 on)."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        ran: set[int] = set()
        wrong: list[int] = []

        def callback(number: int, running: set[int]) -> None:
            running.add(number)
            time.sleep(0)
            ran.add(number)
            running.discard(number)

        def cancel(first: int) -> None:
            for number in range(first, first + count(200, 5000)):
                running: set[int] = set()
                handle = loop.call_soon_threadsafe(callback, number, running)
                time.sleep(0)
                handle.cancel()
                before = number in ran
                if running and sys.version_info >= (3, 14):
                    wrong.append(number)
                time.sleep(0)
                if not before and number in ran and sys.version_info >= (3, 14):
                    wrong.append(number)

        jobs = [loop.run_in_executor(None, cancel, 10_000 * i) for i in range(3)]
        await asyncio.gather(*jobs)
        assert wrong == []

    run_in_mode(main(), model, debug)


def test_a_threadsafe_handle_has_what_tools_look_at(model: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        context = contextvars.copy_context()
        handle = loop.call_soon_threadsafe(int, context=context)
        kind = getattr(asyncio.events, "_ThreadSafeHandle", asyncio.Handle)
        assert isinstance(handle, kind)
        assert handle._callback is int
        assert handle._context is context
        assert "int" in repr(handle)
        handle.cancel()
        assert "cancelled" in repr(handle)

    run(main(), model)


@blocking
def test_a_threadsafe_callback_whose_repr_raises_unblocks_other_threads(model: str) -> None:
    class Callback:
        def __call__(self) -> None:
            started.set()
            assert is_blocked(thread)
            raise ValueError("it is wrong")

        def __repr__(self) -> str:
            raise ZeroDivisionError

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: None)
        handles.append(loop.call_soon_threadsafe(Callback()))
        thread.start()
        with contextlib.suppress(ZeroDivisionError):
            await loop.run_in_executor(None, thread.join)

    def look() -> None:
        started.wait()
        handles[0].cancel()

    handles: list[asyncio.Handle] = []
    started = threading.Event()
    thread = threading.Thread(target=look)
    with contextlib.suppress(ZeroDivisionError):
        run(main(), model)
    thread.join()
