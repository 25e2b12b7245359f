"""Both engines, in a process each and in turn; one document comes out."""

from __future__ import annotations

import contextlib
import tempfile
from typing import Any

from noria.compare.files import place
from noria.compare.files.held import PAGE
from noria.compare.files.steps import STEPS
from noria.compare.measure.child import Child, ChildFailed
from noria.compare.measure.experiment import Progress, Row
from noria.compare.measure.medians import median_number, merge_rounds
from noria.compare.measure.run import run_info

ENGINES = ("ring", "threads")
SIZE, QUICK_SIZE = 8 * 1024 * 1024, 1024 * 1024
REPEATS, QUICK_REPEATS = 9, 3
REPLY_TIMEOUT_SECONDS = 60.0
MIN_BYTES_PER_SECOND = 1e6
"""The timeout of a walk is REPLY_TIMEOUT_SECONDS and the time for its bytes at this rate."""


def measure(
    directory: str,
    *,
    size: int | None = None,
    repeats: int | None = None,
    quick: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run the measurement and return its document, which docs/compare-files.md describes.

    `size` in bytes, which memory holds several times. The files are made in a new directory below
    `directory` and removed afterwards, also after KeyboardInterrupt. Raises OSError if they cannot
    be made, and ChildFailed if they cannot be written.
    """
    size = size or (QUICK_SIZE if quick else SIZE)
    repeats = repeats or (QUICK_REPEATS if quick else REPEATS)
    where = place.find(directory)
    rows: list[Row] = []
    engines: list[Row] = []
    idle: dict[str, list[float]] = {}
    counted = reason = ""
    with (
        tempfile.TemporaryDirectory(
            prefix=".noria-compare-", dir=directory, ignore_cleanup_errors=True
        ) as own,
        contextlib.ExitStack() as stack,
    ):
        children: dict[str, Child] = {}
        for name in ENGINES:
            child = stack.enter_context(Child("noria.compare.files.child", name, own, str(size)))
            try:
                message = child.receive(REPLY_TIMEOUT_SECONDS)
            except ChildFailed as failed:
                if failed.kind != "refused":
                    raise
                engines.append({"name": name, "available": False, "reason": str(failed)})
                continue
            engines.append({"name": name, "available": True, "reason": ""})
            counted, reason = message["counted"], message["reason"]
            children[name] = child
        for turn in range(repeats):
            # Alternate the order.
            for name in sorted(children, reverse=bool(turn % 2)):
                if progress is not None:
                    progress(turn / repeats, f"{name}, {turn + 1} of {repeats}")
                message = children[name].request(
                    REPLY_TIMEOUT_SECONDS + size * len(STEPS) / MIN_BYTES_PER_SECOND
                )
                rows += message["rows"]
                idle.setdefault(name, []).append(message["idle_us"])
    for engine in engines:
        engine["idle_us"] = median_number(idle.get(engine["name"], ()))
    merged = merge_rounds(rows, ("engine", "step"))
    if not where["device"]:
        merged = [row | {"device": None} for row in merged]
    command = ["noria compare files", *(["--quick"] if quick else [])]
    command += [f"--size {size}"] if size != (QUICK_SIZE if quick else SIZE) else []
    command += [f"--repeats {repeats}"] if repeats != (QUICK_REPEATS if quick else REPEATS) else []
    return {
        **run_info(" ".join(command), quick),
        "size": size,
        "page": PAGE,
        "repeats": repeats,
        "place": where,
        "counted": counted,
        "counted_reason": reason,
        "engines": engines,
        "rows": merged,
    }
