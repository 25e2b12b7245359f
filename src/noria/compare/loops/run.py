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
from noria.compare.noise import NoiseMeter

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
    then on, with the reason in the result. The loop `repeat` is measured twice a round, by which
    the noise of the machine is known. `found` gets the measurements one by one, so that they are
    not lost to KeyboardInterrupt; no process is left then.
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
        for loop in loops:
            with _skipping(found, loop, subjects):
                subjects[loop] = stack.enter_context(found.row.start(loop, place))
        for loop, subject in list(subjects.items()):
            with _skipping(found, loop, subjects):
                subject.prepare()
                subject.pause()
        for number in range(rounds):
            turn = [*subjects, *([found.repeated] if found.repeated in subjects else [])]
            measured: set[str] = set()
            for loop in rotated(turn, number):
                if loop not in subjects:
                    continue
                if step is not None:
                    step(found.row, loop, number)
                with _skipping(found, loop, subjects):
                    sample = _measure_subject(subjects[loop], place)
                    if loop in measured:
                        found.again[number] = sample
                    else:
                        found.samples.setdefault(loop, {})[number] = sample
                    measured.add(loop)


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


def rotated(loops: Sequence[str], by: int) -> list[str]:
    """Return the loops, rotated by `by`, so that none always follows the same one."""
    turn = by % max(len(loops), 1)
    return [*loops[turn:], *loops[:turn]]
