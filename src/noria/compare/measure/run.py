"""The comparison: every question, put to every model, in rounds; one document comes out."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

import noria
from noria import models as known
from noria.compare.measure import cores, idle, phases, throughput, triggers, waiting
from noria.compare.measure.bench import Bench, Progress, Row
from noria.compare.measure.medians import merge
from noria.compare.measure.settings import QUICK, WHOLE, Settings


class Question(Protocol):
    """What a module of one measurement has."""

    KEYS: tuple[str, ...]

    def steps(self, bench: Bench) -> int: ...

    def measure(self, bench: Bench, model: str) -> list[Row]: ...


QUESTIONS: dict[str, Any] = {
    "throughput": throughput,
    "phases": phases,
    "waiting": waiting,
    "idle": idle,
    "triggers": triggers,
}

ORDER = ("phases", "waiting", "triggers", "throughput", "idle")
"""What is soon done comes first, so that a slow machine leaves out the fewest questions."""


def compare(
    models: Sequence[str] | None = None,
    *,
    quick: bool = False,
    only: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Runs the experiment and returns its document: see docs/compare.md for what is in it.

    `models`: names of noria.MODELS, all of them if None; one that does not work here is left out,
    with the reason. `only`: names of QUESTIONS. `progress(done, what)` is called at every step with
    the part that is done (0 to 1) and what begins. No process outlives the call, not even if it
    ends by KeyboardInterrupt. Raises UnknownModel, or ValueError for an unknown question.
    """
    return run(QUICK if quick else WHOLE, models, quick=quick, only=only, progress=progress)


def run(
    settings: Settings,
    models: Sequence[str] | None,
    *,
    quick: bool,
    only: Sequence[str] | None,
    progress: Progress | None,
) -> dict[str, Any]:
    """The same with settings of one's own."""
    for name in only or ():
        if name not in QUESTIONS:
            raise ValueError(f"unknown question {name!r}: choose from {', '.join(QUESTIONS)}")
    chosen = list(dict.fromkeys(models or known.MODELS))
    described = [_describe(name) for name in chosen]
    available = [model["name"] for model in described if model["available"]]
    with Bench(settings, progress) as bench:
        results = _header(bench, models, quick, only) | {"models": described}
        results |= _empty(settings)
        asked = {name: QUESTIONS[name] for name in QUESTIONS if not only or name in only}
        bench.steps = sum(
            question.steps(bench) * len(available) * _rounds(name, settings)
            for name, question in asked.items()
        )
        for name in (name for name in ORDER if name in asked):
            bench.allow(0.6 if name == "throughput" and "idle" in asked else 1.0)
            results[name]["rows"] = _ask(bench, name, asked[name], available)
        if progress is not None:
            progress(1.0, "done")
    return results


def _rounds(name: str, settings: Settings) -> int:
    """What a trigger tells is the same every time; all else is measured again in each round."""
    return 1 if name == "triggers" else settings.rounds


def _ask(bench: Bench, name: str, question: Question, available: list[str]) -> list[Row]:
    """Puts one question to all models, in turn, as often as there are rounds."""
    rows: dict[str, list[Row]] = {model: [] for model in available}
    if name == "idle":
        # Thousands of threads take long to begin and to end: nobody else has to wait for them.
        available = sorted(available, key=lambda model: "thread" in known.info(model).limit)
    for number in range(_rounds(name, bench.settings)):
        turn = number % max(len(available), 1)
        # Each round begins with another model: what comes after what is not always the same.
        for model in available[turn:] + available[:turn]:
            expected = bench.done + question.steps(bench)
            found = question.measure(bench, model)
            bench.done = expected
            if name == "phases":
                # Samples are not merged: every one is a message that really came.
                at = len(rows[model])
                found = [{**row, "sample": at + row["sample"]} for row in found]
            rows[model] += found
    return [row for each in rows.values() for row in merge(each, question.KEYS)]


def _describe(name: str) -> Row:
    works, reason = known.availability(name)
    about = known.info(name)._asdict()
    del about["summary"]
    return {"name": name, "available": works, "reason": reason, **about}


def _empty(settings: Settings) -> dict[str, Any]:
    return {
        "throughput": {"size": settings.size, "seconds": settings.seconds, "rows": []},
        "phases": {"size": settings.sample_size, "rows": []},
        "waiting": {"clients": settings.clients, "hold_ms": settings.hold_ms, "rows": []},
        "idle": {"rows": []},
        "triggers": {"rows": []},
    }


def _header(
    bench: Bench, models: Sequence[str] | None, quick: bool, only: Sequence[str] | None
) -> dict[str, Any]:
    command = ["noria compare"]
    command += ["--quick"] if quick else []
    command += [f"--models {','.join(models)}"] if models else []
    command += [f"--only {','.join(only)}"] if only else []
    header = about(" ".join(command), quick)
    if bench.cores is None:
        header["machine"] += ", which server and clients share"
    return {
        **header,
        "only": list(only) if only else None,
        "rounds": bench.settings.rounds,
        "pinned": {"server": bench.cores[0], "clients": bench.cores[1]} if bench.cores else None,
    }


def about(command: str, quick: bool) -> dict[str, Any]:
    """What every document begins with: the machine, the versions, the date, the command."""
    count = len(os.sched_getaffinity(0))
    return {
        "noria": noria.__version__,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "machine": f"{cores.processor()}, {count} core{'s' if count > 1 else ''}",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": quick,
        "command": command,
    }
