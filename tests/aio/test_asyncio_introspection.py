"""CPython's tools for inspecting tasks work on noria's loop, in the process and from another."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.loops import MODELS, ORACLE, run

graphs = pytest.mark.skipif(
    not hasattr(asyncio, "capture_call_graph"), reason="call graphs came with Python 3.14"
)
tools = pytest.mark.skipif(
    sys.version_info < (3, 14), reason="`python -m asyncio ps` came with Python 3.14"
)
profiler = pytest.mark.skipif(
    importlib.util.find_spec("profiling") is None, reason="the profiler came with Python 3.15"
)

# Printed by the tools if ptrace(2) does not allow them to read the process's memory.
REFUSED = ("insufficient permissions", "unable to access process memory", "not permitted")

PROGRAM = """
import asyncio, noria, sys

async def inner():
    await asyncio.get_running_loop().create_future()

async def outer():
    await inner()

def compute():
    return sum(range(20_000))

async def busy():
    while True:
        compute()
        await asyncio.sleep(0)

async def main():
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(outer(), name="first task"),
                 group.create_task(outer(), name="second task")]
        if sys.argv[2] == "busy":
            tasks.append(group.create_task(busy(), name="busy task"))
        await asyncio.sleep(0)
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        for task in tasks:
            task.cancel()

noria.run(main(), model=sys.argv[1])
"""


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextlib.contextmanager
def program(*arguments: str) -> Iterator[int]:
    """The pid of a process that runs PROGRAM, whose tasks wait (or one is busy)."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            yield process.pid
        finally:
            # It exits at the end of its input.
            process.communicate()
    assert process.returncode == 0


def run_tool(*arguments: str) -> str:
    """The output of the tool; skips the test if the kernel does not allow the access."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=45,
    )
    output = done.stdout + done.stderr
    if any(text in output.lower() for text in REFUSED):
        pytest.skip("the kernel refuses to let a process read another's memory (ptrace)")
    assert done.returncode == 0, output
    return output


@graphs
@pytest.mark.parametrize("model", [*MODELS, ORACLE])
def test_a_call_graph_shows_which_task_awaits_which(model: str) -> None:
    async def main() -> None:
        library: Any = asyncio
        wakes = asyncio.get_running_loop().create_future()

        async def inner() -> None:
            await wakes

        async def outer() -> None:
            await inner()

        async def parent() -> None:
            await asyncio.gather(asyncio.create_task(outer(), name="the child"))

        task = asyncio.create_task(parent(), name="the parent")
        while not any(t.get_name() == "the child" for t in asyncio.all_tasks()):
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        (child,) = (t for t in asyncio.all_tasks() if t.get_name() == "the child")

        graph = library.capture_call_graph(child)
        assert graph.future is child
        assert [entry.frame.f_code.co_name for entry in graph.call_stack] == ["inner", "outer"]
        printed = io.StringIO()
        library.print_call_graph(child, file=printed)
        for name in ("the child", "inner()", "outer()", "the parent", "parent()"):
            assert name in printed.getvalue()

        # The running task, from a function that it calls.
        own = library.capture_call_graph()
        assert own.future is asyncio.current_task()
        assert "main" in [entry.frame.f_code.co_name for entry in own.call_stack]
        assert "main" in library.format_call_graph()

        wakes.set_result(None)
        await task

    run(main(), model)


@tools
def test_ps_lists_the_tasks_of_a_process(model: str) -> None:
    with program(model, "") as number:
        output = run_tool("asyncio", "ps", str(number))
    rows = [line for line in output.splitlines() if " task" in line and "inner" in line]
    assert [row for row in rows if "first task" in row and "inner -> outer" in row]
    assert [row for row in rows if "second task" in row and "inner -> outer" in row]
    assert all("main" in row and "Task-1" in row for row in rows)


@tools
def test_pstree_shows_which_task_awaits_which(model: str) -> None:
    with program(model, "") as number:
        output = run_tool("asyncio", "pstree", str(number))
    lines = [line.strip("│├└─ ") for line in output.splitlines()]
    names = [line.split(" <")[0].split(" /")[0] for line in lines]
    first = names.index("(T) first task")
    assert names.index("(T) Task-1") < first
    assert names[first + 1].startswith("outer")
    assert names[first + 2].startswith("inner")
    assert "(T) second task" in names


@profiler
@pytest.mark.parametrize("mode", ["running", "all"])
def test_the_sampling_profiler_sees_coroutines(model: str, mode: str, tmp_path: Path) -> None:
    found = tmp_path / "samples.txt"
    options = ["--async-aware", "--async-mode", mode, "--collapsed", "-d", "1", "-o", str(found)]
    with program(model, "busy") as number:
        run_tool("profiling.sampling", "attach", *options, str(number))
    samples = found.read_text().splitlines()
    busy = [line for line in samples if "busy task" in line and ":busy:" in line]
    waiting = [line for line in samples if "first task" in line]
    if mode == "running":
        assert any(":compute:" in line for line in busy)  # what the coroutine calls
    else:
        assert busy
        assert any(":outer:" in line and ":inner:" in line for line in waiting)
