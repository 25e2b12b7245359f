"""The watchdog: blocked loops are named while they are blocked, and only those."""

from __future__ import annotations

import asyncio
import builtins
import importlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import noria
from noria.sight import lifetime
from support.running import finish, start
from support.waiting import DEADLINE

LIMIT = 0.05  # seconds

pytestmark = pytest.mark.usefixtures("runtime_directory")


def agent() -> Any:
    found = lifetime.active()
    assert found is not None
    return found


def blocks() -> list[dict[str, Any]]:
    return [block for block in agent().blocks_after(0) if block["stack"]]


def wait_for_block() -> None:
    """Block the calling thread until the watchdog has noticed it."""
    end = time.monotonic() + DEADLINE
    while not blocks():
        assert time.monotonic() < end
        time.sleep(0.01)


def block_of(handler: Callable[[], object]) -> dict[str, Any]:
    """Run a handler that blocks the loop; return what the watchdog says in the end."""

    async def main() -> dict[str, Any]:
        asyncio.get_running_loop().call_soon(handler)
        end = time.monotonic() + DEADLINE
        while not (found := [block for block in blocks() if block["ended"]]):
            assert time.monotonic() < end
            await asyncio.sleep(0.005)
        return found[0]

    with noria.watch(max_block=LIMIT, report_blocks=False, socket=False):
        return noria.run(main())


def test_a_block_is_named_while_it_lasts() -> None:
    seen: list[dict[str, Any]] = []

    def handler() -> None:
        wait_for_block()
        seen.extend(blocks())

    block = block_of(handler)
    assert [each["ended"] for each in seen] == [False]
    names = [place[0].rpartition(".")[2] for place in seen[0]["stack"]]
    assert names == ["handler", "wait_for_block"]
    assert seen[0]["stack"][-1][3] == "time.sleep(0.01)"
    assert block["started"] == seen[0]["started"]
    assert block["duration"] >= LIMIT * 1e9
    assert not block["gil_held"]


def test_a_thread_that_waits_for_a_lock() -> None:
    lock = threading.Lock()

    def handler() -> None:
        lock.acquire()
        threading.Thread(target=lambda: (wait_for_block(), lock.release())).start()
        with lock:
            pass

    block = block_of(handler)
    assert block["stack"][-1][3] == "with lock:"
    assert block["cpu"] < block["duration"] / 2


def test_c_code_that_holds_the_gil_is_named_by_the_line_that_called_it() -> None:
    def handler() -> None:
        for size in range(18, 40):
            began = time.monotonic()
            re.match("(a+)+$", "a" * size + "b")  # doubles with each letter
            if time.monotonic() - began > 0.2:
                break

    block = block_of(handler)
    lines = [place[3] for place in block["stack"]]
    assert any("doubles with each letter" in text for text in lines), lines


@pytest.mark.parametrize("lasts", [False, True])
def test_the_stack_is_taken_by_the_thread_that_gets_the_gil_first(lasts: bool) -> None:
    def handler() -> None:
        watchdog = agent().watchdog
        interval = sys.getswitchinterval()
        sys.setswitchinterval(60)  # no thread gets the GIL before this one waits
        try:
            end = time.monotonic() + 2
            while watchdog._watcher.overdue() is None:
                if time.monotonic() > end:  # the watchdog was not waiting yet
                    return
            watchdog.peek()
        finally:
            sys.setswitchinterval(interval)
        if lasts:
            wait_for_block()

    async def main() -> list[str]:
        end = time.monotonic() + DEADLINE
        # Not only once: on a busy machine it may have waited for a CPU for most of the time.
        while not (found := [block for block in blocks() if block["ended"]]):
            assert time.monotonic() < end
            handler()
            await asyncio.sleep(0.05)
        return [block["stack"][-1][3] for block in found]

    with noria.watch(max_block=LIMIT, report_blocks=False, socket=False):
        assert "watchdog.peek()" in noria.run(main())


def test_a_block_inside_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slow_module_of_test.py").write_text("wait_for_block()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(builtins, "wait_for_block", wait_for_block, raising=False)
    block = block_of(lambda: importlib.import_module("slow_module_of_test"))
    del sys.modules["slow_module_of_test"]
    assert 0 < block["importing"] == sum(count for _, count in block["samples"])


def test_a_turn_with_many_callbacks_and_the_events_that_waited(
    capfd: pytest.CaptureFixture[str],
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def small() -> None:
            time.sleep(0.001)

        for _ in range(150):
            loop.call_soon(small)
        loop.call_soon(done.set)
        await done.wait()
        await asyncio.sleep(0.03)
        agent().sync()

    with noria.watch(max_block=LIMIT, socket=False):
        noria.run(main())
    text = capfd.readouterr().err
    assert re.search(r"this turn has run \d+ handlers, the longest for \d+ ms", text), text
    assert "time.sleep(0.001)" in text


def test_the_message_is_written_once_for_each_place(capfd: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        for number in range(3):
            time.sleep(2 * LIMIT)
            await asyncio.sleep(0)
            end = time.monotonic() + DEADLINE
            while sum(block["ended"] for block in blocks()) <= number:
                assert time.monotonic() < end
                await asyncio.sleep(0.005)

    with noria.watch(max_block=LIMIT, socket=False):
        noria.run(main())
    text = capfd.readouterr().err
    assert text.count("is blocked, so far for") == 1, text
    assert text.count("time.sleep(2 * LIMIT)") == 1
    assert re.search(r"the block at \S+:\d+ lasted \d+ ms", text)
    assert re.search(r"by task 'Task-\d+'", text)


def test_a_turn_that_ends_while_the_watchdog_looks_is_no_block() -> None:
    """It was reported as one that had begun before the loop ran, and lasted until now."""

    async def main() -> list[dict[str, Any]]:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0.01)
        first, before = time.monotonic_ns(), len(agent().blocks_after(0))
        done, left = loop.create_future(), 20_000

        def tick() -> None:
            nonlocal left
            left -= 1
            if left:
                loop.call_later(50e-6, tick)
            else:
                done.set_result(None)

        tick()
        await done
        return [b for b in agent().blocks_after(0)[before:] if b["started"] < first]

    with noria.watch(max_block=0.002, report_blocks=False, socket=False):
        assert noria.run(main()) == []


def test_no_block_where_the_process_was_stopped_or_a_debugger_waits() -> None:
    process = start(
        """
        import asyncio, io, os, pdb, subprocess, sys, time, noria
        watch = noria.watch(max_block=0.15, socket=False)
        class Input(io.StringIO):
            def readline(self):
                time.sleep(0.4)
                return "continue\\n"
        async def main():
            sys.stdin.readline()  # the process is stopped meanwhile
            await asyncio.sleep(0.05)
            debugger = pdb.Pdb(stdin=Input(), stdout=io.StringIO())
            debugger.set_trace()
            await asyncio.sleep(0.05)
            print([block for block in watch.agent.blocks_after(0) if block["stack"]])
        noria.run(main())
        """
    )
    assert process.stdin is not None
    while "(sleeping)" not in Path(f"/proc/{process.pid}/status").read_text():
        time.sleep(0.005)
    stop_and_continue(process)
    status, output, errors = finish(process)
    assert status == 0, errors
    assert output.strip() == "[]", errors
    assert "blocked" not in errors


def stop_and_continue(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(0.5)
    process.stdin.write("\n")
    process.stdin.flush()
    os.kill(process.pid, signal.SIGCONT)
