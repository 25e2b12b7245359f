"""The comparison: all measurements of all models, in rounds; the result is one document."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

import noria
from noria import models as all_models
from noria.compare.measure import cores, idle, phases, throughput, triggers, waiting
from noria.compare.measure.experiment import Experiment, Progress, Row
from noria.compare.measure.settings import FULL, QUICK, Settings
from noria.compare.noise import noise_document


class Measurement(Protocol):
    """The interface of a measurement's module."""

    def steps(self, experiment: Experiment, models: list[str]) -> int: ...

    def measure(self, experiment: Experiment, models: list[str]) -> list[Row]: ...


MEASUREMENTS: dict[str, Any] = {
    "throughput": throughput,
    "phases": phases,
    "waiting": waiting,
    "idle": idle,
    "triggers": triggers,
}

ORDER = ("phases", "waiting", "triggers", "idle", "throughput")
"""The quick ones first, so that a slow machine misses as few as possible; throughput last, because
it has most sizes that can be left out."""

IDLE_SHARE = 0.55
"""Share of the time budget by which the idle connections are measured, to leave some for
throughput."""


def compare(
    models: Sequence[str] | None = None,
    *,
    quick: bool = False,
    only: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run the experiment and return its document, which docs/compare.md describes.

    `models`: names of noria.MODELS, None for all; models that do not work here are skipped, with
    the reason in the document. `only`: names of MEASUREMENTS. `progress(done, what)` is called at
    every step with the share that is done (0 to 1) and the next step. No process outlives the
    call, not even after KeyboardInterrupt. Raises UnknownModel, or ValueError for an unknown
    measurement.
    """
    return run(QUICK if quick else FULL, models, quick=quick, only=only, progress=progress)


def run(
    settings: Settings,
    models: Sequence[str] | None,
    *,
    quick: bool,
    only: Sequence[str] | None,
    progress: Progress | None,
) -> dict[str, Any]:
    """Run the experiment with the given settings: see compare()."""
    for name in only or ():
        if name not in MEASUREMENTS:
            raise ValueError(f"unknown measurement {name!r}; known are {', '.join(MEASUREMENTS)}")
    chosen = list(dict.fromkeys(models or all_models.MODELS))
    described = [_describe(name) for name in chosen]
    available = [model["name"] for model in described if model["available"]]
    with Experiment(settings, progress) as experiment:
        results = _header(experiment, models, quick, only) | {"models": described}
        results |= _empty(settings)
        chosen_measurements = {
            name: MEASUREMENTS[name] for name in MEASUREMENTS if not only or name in only
        }
        experiment.steps = sum(
            measurement.steps(experiment, available) for measurement in chosen_measurements.values()
        )
        for name in (name for name in ORDER if name in chosen_measurements):
            experiment.set_deadline(
                IDLE_SHARE if name == "idle" and "throughput" in chosen_measurements else 1.0
            )
            results[name]["rows"] = _measure(experiment, chosen_measurements[name], available)
        results["noise"] = noise_document(experiment.meter, experiment.pairs)
        if progress is not None:
            progress(1.0, "done")
    return results


def _measure(experiment: Experiment, measurement: Measurement, models: list[str]) -> list[Row]:
    """Run one measurement on all models; count its steps as done even if some were skipped."""
    expected = experiment.done + measurement.steps(experiment, models)
    rows = measurement.measure(experiment, models)
    experiment.done = expected
    return rows


def _describe(name: str) -> Row:
    works, reason = all_models.availability(name)
    info = all_models.info(name)._asdict()
    del info["summary"]
    return {"name": name, "available": works, "reason": reason, **info}


def _empty(settings: Settings) -> dict[str, Any]:
    return {
        "throughput": {"size": settings.size, "seconds": settings.seconds, "rows": []},
        "phases": {"size": settings.sample_size, "rows": []},
        "waiting": {"clients": settings.clients, "hold_ms": settings.hold_ms, "rows": []},
        "idle": {"rows": []},
        "triggers": {"rows": []},
    }


def _header(
    experiment: Experiment, models: Sequence[str] | None, quick: bool, only: Sequence[str] | None
) -> dict[str, Any]:
    command = ["noria compare"]
    command += ["--quick"] if quick else []
    command += [f"--models {','.join(models)}"] if models else []
    command += [f"--only {','.join(only)}"] if only else []
    header = run_info(" ".join(command), quick)
    if experiment.cores is None:
        header["machine"] += ", shared by server and clients"
    return {
        **header,
        "only": list(only) if only else None,
        "rounds": experiment.settings.rounds,
        "pinned": {"server": experiment.cores[0], "clients": experiment.cores[1]}
        if experiment.cores
        else None,
    }


def run_info(command: str, quick: bool) -> dict[str, Any]:
    """The first keys of each document: versions, machine, date, command."""
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
