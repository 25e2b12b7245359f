"""Handles, clocks and debug mode, as tools that look into an asyncio loop find them."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import socket
import weakref
from typing import Any
from unittest import mock

import pytest

import noria
from loops import MODELS, ORACLE, Keeper, run


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
            for _ in range(3):  # memory that is used again has no old references to it
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
        await asyncio.sleep(0.001)  # the loop's own clock again

    run(main(), model)


def test_a_subclass_has_its_own_clock(model: str) -> None:
    class Shifted(asyncio.SelectorEventLoop if model == ORACLE else noria.aio.EventLoop):  # type: ignore[misc]
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


def test_debug_mode_knows_who_made_a_handle(model: str) -> None:
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
