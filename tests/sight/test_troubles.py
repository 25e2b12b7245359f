"""`noria run --record` names the fault of each program in examples/troubles, and none in others.

`nox -s slow` runs a few programs once, the models in turn. NORIA_TROUBLES=all runs all on every
model that can drive asyncio, and the healthy programs for longer. A machine that stops running a
process for a moment can show a block that is no fault of the program: a run with other findings
than expected is repeated once.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from noria import models
from noria.sight.findings import KINDS, find, text
from noria.sight.findings.finding import Finding
from noria.sight.recording import observe_recording
from support.running import ROOT, environment

EXAMPLES = ROOT / "examples"
TROUBLES = sorted((EXAMPLES / "troubles").glob("*.py"))
HEALTHY = sorted((EXAMPLES / "healthy").glob("*.py"))
NEEDS = {"uvicorn_server": "uvicorn", "aiohttp_server": "aiohttp", "redis_client": "redis"}
MODELS = [
    name
    for name in ("select", "poll", "epoll", "epoll-edge", "io_uring")
    if models.availability(name)[0]
]
ALL = os.environ.get("NORIA_TROUBLES") == "all"
# Those that run by default: of each way in which findings are made, cheap ones.
USUAL = {
    "blocked_by_json",
    "blocked_by_regex",
    "never_resumed",
    "reader_paused",
    "connection_leak",
    "executor_full",
    "chat",
    "file_server",
}
LIMIT = 240.0  # seconds, for a busy machine
pytestmark = pytest.mark.timeout(LIMIT + 30)
HEALTHY_SECONDS = "3" if ALL else "0.7"


def runs(programs: list[Path], first: int = 0) -> list[object]:
    """The programs with all models, or the usual ones with one each."""
    if ALL:
        pairs = [(program, model) for program in programs for model in MODELS]
    else:
        pairs = [
            (program, MODELS[(number + first) % len(MODELS)])
            for number, program in enumerate(each for each in programs if each.stem in USUAL)
        ]
    return [pytest.param(*pair, id=f"{pair[0].stem}-{pair[1]}") for pair in pairs]


@dataclass
class Fault:
    """The fault that a program's comment names: FAULT kind."""

    kind: str
    line: int
    function: str

    @staticmethod
    def of(program: Path) -> Fault:
        source = program.read_text()
        (found,) = re.finditer(r"# FAULT ([a-z-]+)", source)
        line = source.count("\n", 0, found.start()) + 1
        functions = [
            node
            for node in ast.walk(ast.parse(source))
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
            and node.lineno <= line <= (node.end_lineno or 0)
        ]
        innermost = max(functions, key=lambda node: node.lineno)
        return Fault(found[1], line, innermost.name)


def findings(program: Path, model: str, folder: Path, *arguments: str) -> list[Finding]:
    """Run a program with `noria run --record` and return the findings of the recording."""
    recording = folder / "run.noria"
    command = ["run", "--model", model, "--record", str(recording), str(program), *arguments]
    process = subprocess.run(
        [sys.executable, "-m", "noria", *command],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env=environment(XDG_RUNTIME_DIR=str(folder), NORIA_THRESHOLDS=""),
    )
    assert process.returncode == 0, f"{process.stdout}\n{process.stderr}"
    return find(observe_recording(recording))


def test_the_examples_plant_each_kind_of_fault_in_one_line():
    planted = {Fault.of(program).kind for program in TROUBLES}
    assert planted == set(KINDS) - {"exception-in-callback"}
    assert len(TROUBLES) >= 14
    assert len(HEALTHY) == 6


@pytest.mark.parametrize(("program", "model"), runs(TROUBLES))
def test_the_fault_is_named(program: Path, model: str, tmp_path: Path):
    fault = Fault.of(program)
    found = findings(program, model, tmp_path)
    if [each.kind for each in found] != [fault.kind]:
        found = findings(program, model, tmp_path)
    assert [each.kind for each in found] == [fault.kind], text.render(found)
    place = found[0].place
    assert place is not None
    assert Path(place.file) == program
    assert place.line == fault.line, text.render(found)
    # A generator expression, or a comprehension before Python 3.12, is a function within it.
    assert fault.function in place.function.split(".")


@pytest.mark.parametrize(("program", "model"), runs(HEALTHY, 2))
def test_a_healthy_program_has_no_finding(program: Path, model: str, tmp_path: Path):
    need = NEEDS.get(program.stem)
    missing = need is not None and find_spec(need) is None
    if missing or (need == "redis" and shutil.which("redis-server") is None):
        assert os.environ.get("NORIA_PROGRAMS") != "required", need
        pytest.skip(f"{need} is not installed")
    found = findings(program, model, tmp_path, HEALTHY_SECONDS, model)
    if found:
        found = findings(program, model, tmp_path, HEALTHY_SECONDS, model)
    assert found == [], text.render(found)
