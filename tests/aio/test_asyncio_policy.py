"""noria.install and noria.EventLoopPolicy, on Pythons with policies and on those without them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from support.loops import MODELS

POLICIES = sys.version_info < (3, 16)

# Python 3.16 will remove policies. It may keep private names: the test removes these, too.
WITHOUT_POLICIES = """
import asyncio, asyncio.events, asyncio.unix_events, sys
for module in (asyncio, asyncio.events, asyncio.unix_events):
    for name in list(vars(module)):
        if "policy" in name.lower():
            delattr(module, name)
vars(asyncio).pop("__getattr__", None)  # it finds deprecated names
"""

MAIN = """
async def main():
    return type(asyncio.get_running_loop()).__module__
"""


def run_python(code: str, *options: str) -> str:
    """Run a new interpreter with warnings as errors; return its output."""
    done = subprocess.run(
        [sys.executable, "-W", "error", *options, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=45,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.strip()


def test_importing_and_running_warn_of_nothing() -> None:
    code = f"import asyncio, noria, noria.aio\n{MAIN}\nprint(noria.run(main()))"
    assert run_python(code) == "noria.aio.loop"
    assert run_python(code, "-X", "dev") == "noria.aio.loop"


@pytest.mark.skipif(not POLICIES, reason="this Python has no policies")
def test_install_makes_noria_s_the_loop_of_asyncio_run() -> None:
    code = f"""
import asyncio, noria
{MAIN}
noria.install("poll")
print(asyncio.run(main()))
loop = asyncio.new_event_loop()
print(loop.model_name)
loop.close()
"""
    assert run_python(code).split() == ["noria.aio.loop", "poll"]


@pytest.mark.skipif(not POLICIES, reason="this Python has no policies")
def test_a_policy_is_one_of_asyncio_s() -> None:
    code = f"""
import asyncio, noria, warnings
{MAIN}
policy = noria.EventLoopPolicy("select")
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    assert isinstance(policy, asyncio.AbstractEventLoopPolicy)
    asyncio.set_event_loop_policy(policy)
    assert asyncio.get_event_loop_policy() is policy
print(asyncio.run(main()))
class Mine(noria.EventLoopPolicy):
    pass
loop = Mine().new_event_loop()
print(loop.model_name)
loop.close()
"""
    assert run_python(code).split()[0] == "noria.aio.loop"


def test_a_python_without_policies_runs_noria_s_loop() -> None:
    code = f"""
{WITHOUT_POLICIES}
import noria, noria.aio
{MAIN}
print(noria.run(main()))
with asyncio.Runner(loop_factory=noria.new_event_loop) as runner:
    print(runner.run(main()))
"""
    assert run_python(code).split() == ["noria.aio.loop"] * 2


@pytest.mark.parametrize(
    "call",
    ["noria.install()", "noria.install(streams=True)", "noria.EventLoopPolicy()"],
)
def test_a_python_without_policies_names_the_alternatives(call: str) -> None:
    code = f"""
{WITHOUT_POLICIES}
import noria
streams = asyncio.StreamReader
try:
    {call}
except RuntimeError as error:
    print(error)
assert asyncio.StreamReader is streams
"""
    said = run_python(code)
    assert "no event loop policies" in said
    for name in ("noria.run", "asyncio.run", "asyncio.Runner", "loop_factory"):
        assert name in said


@pytest.mark.parametrize("thread", [False, True], ids=["main thread", "other thread"])
@pytest.mark.parametrize("model", MODELS)
def test_subprocesses_warn_of_nothing(model: str, thread: bool) -> None:
    """Child watchers are deprecated from Python 3.12 on, and removed in 3.14."""
    code = f"""
import asyncio, noria, sys, threading
async def main():
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "print(input()); raise SystemExit(3)",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate(b"hello\\n")
    shell = await asyncio.create_subprocess_shell("exit 4")
    killed = await asyncio.create_subprocess_exec("sleep", "60")
    killed.terminate()
    print(output.decode().strip(), process.returncode, await shell.wait(), await killed.wait())
def run():
    noria.run(main(), model={model!r})
if {thread}:
    worker = threading.Thread(target=run)
    worker.start()
    worker.join()
else:
    run()
"""
    assert run_python(code) == "hello 3 4 -15"
