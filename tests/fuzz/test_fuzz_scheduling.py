"""Calls, tasks and timers in random order: where asyncio defines an order, noria's is the same."""

from __future__ import annotations

import asyncio
import contextvars
import random
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from support.fuzz.harness import LIMIT, fuzz, run_checked, start_eagerly
from support.loops import ORACLE, until

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="")


class Program:
    """A random program without I/O; each call has a random generator seeded with its name.

    Its actions depend only on the seed and on the order of its calls, which `trace` records.
    """

    def __init__(self, seed: float) -> None:
        self.seed = seed
        self.loop = asyncio.get_running_loop()
        self.trace: list[str] = []
        self.left = 250  # calls and tasks that may still be made
        self.handles: list[Any] = []
        self.futures: list[asyncio.Future[str]] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.event = asyncio.Event()
        self.lock = asyncio.Lock()
        self.queue: asyncio.Queue[str] = asyncio.Queue(maxsize=2)
        self.loop.set_exception_handler(self.report)

    def dice(self, name: str) -> random.Random:
        return random.Random(f"{self.seed} {name}")

    def report(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.trace.append(f"reported {context.get('exception')!r}")

    async def run(self) -> list[str]:
        for number in range(12):
            self.act(f"{number}", self.dice(f"{number}"))
        for _ in range(60):
            await asyncio.sleep(0)
        self.left = 0
        self.trace.append("cancel all")
        while live := [task for task in self.tasks if not task.done()]:
            for task in live:
                task.cancel()
            await asyncio.sleep(0)
        for future in self.futures:
            future.cancel()
        await asyncio.sleep(0)
        return self.trace

    def call(self, name: str) -> None:
        self.trace.append(f"call {name} {variable.get()}")
        dice = self.dice(name)
        self.act(name, dice)
        if dice.random() < 0.05:
            raise ValueError(name)

    def done(self, name: str, future: asyncio.Future[Any]) -> None:
        outcome = "cancelled" if future.cancelled() else repr(future.exception())
        self.trace.append(f"done {name} {outcome}")
        self.act(name, self.dice(name))

    def act(self, name: str, dice: random.Random) -> None:
        """Make some calls and tasks, and settle or cancel some earlier ones."""
        actions: list[Callable[[str, random.Random], object]] = [
            *[self.call_soon] * 4,
            *[self.start_task] * 3,
            *[self.start_eagerly, self.call_later, self.make_future, self.cancel_handle],
            *[self.settle, self.settle, self.cancel_task, self.set_event, self.put],
        ]
        for number in range(dice.choice((0, 1, 1, 2, 3))):
            if self.left > 0:
                self.left -= 1
                dice.choice(actions)(f"{name}.{number}", dice)

    def call_soon(self, name: str, dice: random.Random) -> None:
        context = None
        if dice.random() < 0.3:
            context = contextvars.copy_context()
            context.run(variable.set, name)
        call = self.loop.call_soon_threadsafe if dice.random() < 0.3 else self.loop.call_soon
        self.handles.append(call(self.call, name, context=context))

    def call_later(self, name: str, dice: random.Random) -> None:
        self.handles.append(self.loop.call_later(0, self.call, name))

    def cancel_handle(self, name: str, dice: random.Random) -> None:
        if self.handles:
            handle = self.handles.pop(dice.randrange(len(self.handles)))
            handle.cancel()
            self.trace.append(f"cancelled {handle.cancelled()}")

    def start_task(self, name: str, dice: random.Random) -> None:
        self.keep(self.loop.create_task(self.work(name)), name)

    def start_eagerly(self, name: str, dice: random.Random) -> None:
        self.keep(start_eagerly(self.work(name)), name)

    def keep(self, task: asyncio.Task[None], name: str) -> None:
        task.add_done_callback(lambda task: self.done(f"{name}!", task))
        self.tasks.append(task)

    def make_future(self, name: str, dice: random.Random) -> None:
        future = self.loop.create_future()
        future.add_done_callback(lambda future: self.done(f"{name}!", future))
        self.futures.append(future)

    def settle(self, name: str, dice: random.Random) -> None:
        waiting = [future for future in self.futures if not future.done()]
        if waiting:
            future = dice.choice(waiting)
            how = dice.randrange(3)
            if how == 0:
                future.set_result(name)
            elif how == 1:
                future.set_exception(KeyError(name))
            else:
                future.cancel()

    def cancel_task(self, name: str, dice: random.Random) -> None:
        live = [task for task in self.tasks if not task.done()]
        if live:
            self.trace.append(f"cancel {dice.choice(live).cancel()}")

    def set_event(self, name: str, dice: random.Random) -> None:
        self.event.set()
        if dice.random() < 0.7:
            self.event.clear()

    def put(self, name: str, dice: random.Random) -> None:
        if not self.queue.full():
            self.queue.put_nowait(name)

    async def work(self, name: str) -> None:
        """Run a task that waits in several ways and may suppress a cancellation."""
        dice = self.dice(name)
        for step in range(dice.randrange(1, 5)):
            self.trace.append(f"task {name} {step} {variable.get()}")
            variable.set(f"{name} {step}")
            self.act(f"{name}/{step}", dice)
            try:
                await self.wait(dice)
            except KeyError as error:
                self.trace.append(f"task {name} {error!r}")
            except asyncio.CancelledError:
                self.trace.append(f"task {name} is cancelled")
                if self.left == 0 or dice.random() < 0.7:
                    raise
            except TimeoutError:
                self.trace.append(f"task {name} is late")

    async def wait(self, dice: random.Random) -> None:
        how = dice.randrange(8)
        waiting = [future for future in self.futures if not future.done()]
        if how == 0 and waiting:
            await asyncio.shield(dice.choice(waiting))
        elif how == 1 and waiting:
            await asyncio.wait(dice.choices(waiting, k=2), return_when="FIRST_COMPLETED")
        elif how == 2:
            await self.event.wait()
        elif how == 3:
            self.trace.append(f"got {await self.queue.get()}")
        elif how == 4:
            async with self.lock:
                await asyncio.sleep(0)
        elif how == 5:
            async with asyncio.timeout(0):
                await asyncio.sleep(0)
        elif how == 6 and sys.version_info >= (3, 12):
            await asyncio.gather(asyncio.sleep(0), asyncio.sleep(0), return_exceptions=True)
        else:
            await asyncio.sleep(0)


def trace_of(seed: float, model: str) -> list[str]:
    traces: list[list[str]] = []

    async def main() -> None:
        async with asyncio.timeout(LIMIT):
            traces.append(await Program(seed).run())

    run_checked(main, model)
    return traces[0]


def test_calls_and_tasks_run_in_asyncios_order(model: str) -> None:
    def one(rng: random.Random) -> None:
        seed = rng.random()
        expected, trace = trace_of(seed, ORACLE), trace_of(seed, model)
        for number, (wanted, got) in enumerate(zip(expected, trace, strict=False)):
            assert got == wanted, (
                f"after {expected[max(number - 5, 0) : number]}: {got}, not {wanted}"
            )
        assert len(trace) == len(expected)

    fuzz(one, 10, 1000)


def test_timers_fire_once_in_order_and_not_early(model: str) -> None:
    def one(rng: random.Random) -> None:
        async def main() -> None:
            loop = asyncio.get_running_loop()
            fired: list[float] = []
            live: dict[float, asyncio.TimerHandle] = {}

            def fire(when: float) -> None:
                assert loop.time() >= when, "a timer fired early"
                live.pop(when)  # a KeyError: it fired twice, or was cancelled
                fired.append(when)

            async def sleep(delay: float) -> None:
                when = loop.time() + delay
                await asyncio.sleep(delay)
                assert loop.time() >= when, "a sleep ended early"

            sleeps = []
            for _ in range(rng.randrange(20, 200)):
                delay = rng.choice((-1, 0, 0.0001, 0.001, 0.001, 0.01)) * rng.random()
                when = loop.time() + delay
                call = loop.call_later if rng.random() < 0.5 else None
                if call is None:
                    live[when] = loop.call_at(when, fire, when)
                else:
                    sleeps.append(loop.create_task(sleep(delay)))
                if live and rng.random() < 0.4:
                    live.pop(rng.choice(list(live))).cancel()
                if rng.random() < 0.2:
                    fired.clear()
                    await asyncio.sleep(rng.choice((0, 0.0003)))
                    # Timers of one turn fire in the order of their times.
            await asyncio.gather(*sleeps)
            await until(lambda: not live)

            # Timers set at once for different times fire in order.
            fired.clear()
            now = loop.time()
            times = [now + rng.random() * 0.005 for _ in range(rng.randrange(1, 100))]
            for when in times:
                live[when] = loop.call_at(when, fire, when)
            for when in rng.sample(times, len(times) // 3):
                live.pop(when).cancel()
            expected = sorted(live)
            await until(lambda: not live)
            assert fired == expected, "timers fired out of order"

        async def limited() -> None:
            async with asyncio.timeout(LIMIT):
                await main()

        run_checked(limited, model)

    fuzz(one, 5, 200)


def test_calls_from_threads_keep_their_order(model: str) -> None:
    """All calls of a thread run in order; executor calls and coroutines return their results."""

    def one(rng: random.Random) -> None:
        async def main() -> None:
            loop = asyncio.get_running_loop()
            ran: dict[int, list[int]] = {number: [] for number in range(rng.randrange(1, 5))}
            size = rng.randrange(1, 200)
            failures: list[str] = []

            async def answer(number: int) -> int:
                await asyncio.sleep(0)
                return number * 2

            def call(thread: int, dice: random.Random) -> None:
                try:
                    for number in range(size):
                        loop.call_soon_threadsafe(ran[thread].append, number)
                        if dice.random() < 0.05:
                            future = asyncio.run_coroutine_threadsafe(answer(number), loop)
                            assert future.result(LIMIT) == number * 2
                            assert ran[thread][-1] == number, "a later call ran first"
                except BaseException as error:
                    failures.append(repr(error))

            threads = [
                threading.Thread(target=call, args=(number, random.Random(rng.random())))
                for number in ran
            ]
            for thread in threads:
                thread.start()
            with ThreadPoolExecutor(2) as executor:
                jobs = [loop.run_in_executor(executor, pow, 2, n) for n in range(rng.randrange(20))]
                for job in jobs:
                    if rng.random() < 0.2:
                        job.cancel()
                    if rng.random() < 0.2:
                        await asyncio.sleep(0)
                results = await asyncio.gather(*jobs, return_exceptions=True)
            for number, result in enumerate(results):
                assert isinstance(result, asyncio.CancelledError) or result == 2**number
            await until(lambda: not any(thread.is_alive() for thread in threads))
            for thread in threads:
                thread.join()
            await asyncio.sleep(0)
            assert not failures, failures
            assert all(calls == list(range(size)) for calls in ran.values()), ran

        async def limited() -> None:
            async with asyncio.timeout(LIMIT):
                await main()

        run_checked(limited, model)

    fuzz(one, 4, 200)
