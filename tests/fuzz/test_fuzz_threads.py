"""Threads that use a closing loop: each call runs or raises RuntimeError; nothing hangs.

Each case runs in its own process, so that a crash or a hang is detected.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import noria
from noria import models
from support.fuzz.harness import LIMIT, replayable, seeds
from support.loops import MODELS, ORACLE, count
from support.running import environment

SUPPORT = Path(__file__).parents[1] / "support" / "fuzz"
ROUNDS = count(8, 100)  # in one process

CASES = [
    *[(kind, model) for kind in ("loop", "moved") for model in (*MODELS, ORACLE)],
    *[("reactor", model) for model in noria.MODELS],
]


@pytest.mark.parametrize(("kind", "name"), CASES, ids=["-".join(case) for case in CASES])
def test_threads_that_call_while_it_closes(kind: str, name: str) -> None:
    if name != ORACLE:
        works, why_not = models.availability(name)
        if not works:
            pytest.skip(why_not)

    for seed in seeds(1, 10):
        command = [sys.executable, "-X", "faulthandler", "-W", "error"]
        command += [str(SUPPORT / "closing_loop.py"), kind, name, str(seed), str(ROUNDS)]
        with replayable(seed):
            run_rounds(command)


def run_rounds(command: list[str]) -> None:
    process = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=environment(),
        timeout=LIMIT + ROUNDS,
        check=False,
    )
    said = f"{process.stdout[-2000:]}\n{process.stderr[-6000:]}"
    assert process.returncode == 0, f"status {process.returncode}\n{said}"
    assert "Exception ignored" not in process.stderr, said
