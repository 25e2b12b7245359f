"""The order of timers: the sorted run of those set in order, and the heap of the others."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import pytest

from noria._core.loop import Loop
from noria._core.models.simulated import Simulated


class Timeline:
    """Timers on a virtual clock, beside a list that says what must run."""

    def __init__(self) -> None:
        self.loop = Loop(Simulated())
        self.expected: dict[int, float] = {}
        self.timers: dict[int, Any] = {}
        self.fired: list[int] = []
        self.number = 0

    def set(self, when: float) -> int:
        self.number += 1
        number = self.number
        self.timers[number] = self.loop.call_at(when, self.fire, number)
        self.expected[number] = when
        return number

    def fire(self, number: int) -> None:
        self.fired.append(number)
        del self.timers[number]

    def cancel(self, number: int) -> None:
        self.timers.pop(number).cancel()
        del self.expected[number]

    def run(self) -> None:
        assert self.loop.pending() == (0, len(self.timers))
        while self.loop.pending()[1]:
            self.loop.run_once()
        # Deadlines that are equal in nanoseconds run in the order in which they were set.
        due = {number: math.ceil(when * 1e9) for number, when in self.expected.items()}
        assert self.fired == sorted(due, key=lambda number: (due[number], number))
        assert self.loop.pending() == (0, 0)
        self.loop.close()


def delays(kind: str, source: random.Random, i: int) -> float:
    """A delay in seconds."""
    if kind == "in order":
        return i * 0.001
    if kind == "equal":
        return 1.0
    if kind == "backwards":
        return 2.0 - i * 0.001
    if kind == "nearly in order":
        return i * 0.001 + source.choice((0, 0, 0.002, 0.005, -0.003)) + 1
    if kind == "with some much later":
        return 3600.0 if i % 97 == 0 else i * 0.001
    return source.choice((0.1, 0.5, 1.0, source.random()))


KINDS = ("in order", "equal", "backwards", "nearly in order", "with some much later", "mixed")


@pytest.mark.parametrize("cancelled", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("kind", KINDS)
def test_timers_run_in_the_order_of_their_deadlines(kind: str, cancelled: float) -> None:
    source = random.Random(f"{kind} {cancelled}")
    line = Timeline()
    now = line.loop.time()
    for i in range(600):
        line.set(now + delays(kind, source, i))
        if source.random() < cancelled:
            line.cancel(source.choice(list(line.timers)))
    line.run()


@pytest.mark.parametrize("order", ["first", "last", "middle"])
def test_all_timers_can_be_cancelled_and_set_again(order: str) -> None:
    line = Timeline()
    now = line.loop.time()
    for _ in range(3):
        for i in range(200):
            line.set(now + i * 0.01)
        while line.timers:
            numbers = list(line.timers)
            line.cancel(numbers[{"first": 0, "last": -1, "middle": len(numbers) // 2}[order]])
        assert line.loop.pending() == (0, 0)
    line.set(now + 1)
    line.run()


def test_timers_set_and_cancelled_behind_one_that_stays_do_not_accumulate() -> None:
    line = Timeline()
    now = line.loop.time()
    line.set(now)
    for i in range(100_000):
        first, second = line.set(now + 1 + i), line.set(now + 1 + i)
        line.cancel(first)
        if i % 1000:
            line.cancel(second)
    assert line.loop.pending() == (0, 101)
    line.run()
    assert len(line.fired) == 101


def test_timers_set_while_others_run() -> None:
    source = random.Random(7)
    loop = Loop(Simulated())
    fired: list[float] = []

    def fire(when: float, left: int) -> None:
        fired.append(when)
        if left:
            again = loop.time() + source.choice((0.001, 0.01, 0.01, 0.01, 1.0))
            loop.call_at(again, fire, again, left - 1)

    start = loop.time()
    for i in range(50):
        loop.call_at(start + i * 0.005, fire, start + i * 0.005, 40)
    while loop.pending()[1]:
        loop.run_once()
    assert len(fired) == 50 * 41
    # Deadlines are compared in nanoseconds.
    assert all(later > earlier - 2e-9 for earlier, later in itertools.pairwise(fired))
    loop.close()
