"""Measures rows on several loops, interleaved and paired.

To compare two loops in N rows, for example as a check in CI, with a PairedRatio for each row:

    from noria.compare.loops import rows, run

    with run.at_place(seconds=0.2) as place:
        for row in rows.select(["echo-*", "call_soon"]):
            found = run.measure_row(row, ["noria-epoll", "uvloop"], place, rounds=9)
            ratio = found.ratio("noria-epoll", "uvloop")  # None if one of them was not measured
            print(row.name, ratio, found.unavailable, found.failures)

The ratio says how many times better the first loop is, also in rows in which lower is better; its
`low` and `high` are the ends of its confidence interval. It needs at least five rounds. Any Row can
be measured, also those of bench/.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from noria.compare.loops.found import Found
from noria.compare.loops.process import LoadProcess
from noria.compare.loops.row import Place, Row, Sample, Subject, Unavailable
from noria.compare.measure import cores
from noria.compare.measure.rounds import rotated
from noria.compare.noise import NoiseMeter

SECOND = "second process"
"""Name of the second process of the loop that is measured twice, for the noise of the row."""

Step = Callable[[Row, str, int], object]
"""Called before each measurement with the row, the loop and the round."""


@contextlib.contextmanager
def at_place(*, seconds: float, warmup: float = 0.02, fresh: bool = False) -> Iterator[Place]:
    """Prepare measurements of `seconds` each: cores, a temporary directory, the load's process.

    This process runs on the load's core meanwhile, so that the measured one has its core alone.
    """
    pair = cores.pair()
    server, load = pair or (None, None)
    clients = LoadProcess(load)
    with tempfile.TemporaryDirectory(prefix="noria-compare-") as scratch, _moved_to(load):
        try:
            meter = NoiseMeter(pair)
            yield Place(server, load, seconds, Path(scratch), fresh, warmup, clients, meter)
        finally:
            clients.end()


@contextlib.contextmanager
def _moved_to(core: int | None) -> Iterator[None]:
    """Run all threads of this process on a core, until the end of the block."""
    allowed = os.sched_getaffinity(0)
    try:
        _set_affinity(allowed if core is None else {core})
        yield
    finally:
        _set_affinity(allowed)


def _set_affinity(allowed: set[int]) -> None:
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # a thread that has ended
            os.sched_setaffinity(int(task.name), allowed)


def measure_row(
    row: Row,
    loops: Sequence[str],
    place: Place,
    rounds: int,
    *,
    found: Found | None = None,
    step: Step | None = None,
    repeat: str = "",
) -> Found:
    """Measure a row on each loop, `rounds` times, and return the measurements.

    Each loop's process is started once. Every round measures all loops, beginning with another one,
    while the processes of the others are stopped. A loop that cannot be measured is skipped from
    then on, with the reason in the result. The loop `repeat`, or the first one if that cannot be
    measured, has two processes, and both are measured in each round: how far equal programs differ
    is the noise of the row. `found` gets the measurements one by one, so that they are not lost to
    KeyboardInterrupt; no process is left then.
    """
    found = Found(row) if found is None else found
    chosen = [loop for loop in loops if row.applies_to(loop)]
    if row.interleaved:
        found.repeated = repeat if repeat in chosen else ""
        _measure_interleaved(found, chosen, place, rounds, step)
        return found
    for loop in chosen:
        _measure_interleaved(found, [loop], place, rounds, step)
    return found


def _measure_interleaved(
    found: Found, loops: Sequence[str], place: Place, rounds: int, step: Step | None
) -> None:
    with ExitStack() as stack:
        subjects: dict[str, Subject] = {}
        started = [(loop, loop) for loop in loops]
        if found.repeated:
            started.append((found.repeated, SECOND))
        _start(found, started, place, stack, subjects)
        if found.repeated and found.repeated not in subjects:
            found.repeated = next((loop for loop in subjects if loop != SECOND), "")
            if found.repeated:
                _start(found, [(found.repeated, SECOND)], place, stack, subjects)
        for number in range(rounds):
            for name in rotated(list(subjects), number):
                if step is not None:
                    step(found.row, found.repeated if name == SECOND else name, number)
                with _skipping(found, name, subjects):
                    sample = _measure_subject(subjects[name], place)
                    if name == SECOND:
                        found.again[number] = sample
                    else:
                        found.samples.setdefault(name, {})[number] = sample


def _start(
    found: Found,
    started: Sequence[tuple[str, str]],
    place: Place,
    stack: ExitStack,
    subjects: dict[str, Subject],
) -> None:
    """Start the processes of loops at the same time, and stop each when it is ready.

    `started` has each loop and its name in `subjects`.
    """
    for loop, name in started:
        with _skipping(found, name, subjects):
            subjects[name] = stack.enter_context(found.row.start(loop, place))
    for _, name in started:
        if name in subjects:
            with _skipping(found, name, subjects):
                subjects[name].prepare()
                subjects[name].pause()


def _measure_subject(subject: Subject, place: Place) -> Sample:
    subject.resume()
    try:
        with _watched(subject, place):
            return subject.measure()
    finally:
        subject.pause()


@contextlib.contextmanager
def _watched(subject: Subject, place: Place) -> Iterator[None]:
    if place.meter is None or subject.pid is None:
        yield
        return
    load = place.clients.pids if place.clients else ()
    with place.meter.watch(subject.pid, *load, os.getpid()):
        yield


@contextlib.contextmanager
def _skipping(found: Found, loop: str, subjects: dict[str, Subject]) -> Iterator[None]:
    """Skip a loop that is unavailable from then on."""
    try:
        yield
    except Unavailable as error:
        subjects.pop(loop, None)
        if loop != SECOND:
            note(found, loop, str(error))


def note(found: Found, loop: str, reason: str) -> None:
    """Note why a loop cannot be measured, or failed after some measurements."""
    (found.failures if loop in found.samples else found.unavailable)[loop] = reason


def measure_once(found: Found, loop: str, number: int, place: Place) -> str:
    """Measure one loop once, in processes of its own, as round `number`.

    Returns the reason if the loop cannot be measured. It is skipped from then on.
    """
    if loop in found.unavailable:
        return ""
    try:
        with found.row.start(loop, place) as subject:
            subject.prepare()
            sample = subject.measure()
    except Unavailable as error:
        note(found, loop, str(error))
        return str(error)
    found.samples.setdefault(loop, {})[number] = sample
    return ""
