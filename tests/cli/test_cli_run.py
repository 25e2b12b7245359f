"""noria run: the program runs as with python, but on noria's loop, and is recorded."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from noria.errors import RecordingError
from noria.sight.recording import Recording
from support.running import environment, finish, start_python

WHERE = "print(type(asyncio.get_running_loop()).__module__.split('.')[0])"


@pytest.fixture(autouse=True)
def in_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


def start(*arguments: str) -> subprocess.Popen[str]:
    return start_python("-m", "noria", "run", *arguments)


def run(*arguments: str) -> tuple[int, str, str]:
    return finish(start(*arguments), 40)


def write(name: str, source: str) -> str:
    Path(name).write_text(textwrap.dedent(source))
    return name


def test_a_script_runs_as_with_python(tmp_path: Path) -> None:
    script = write(
        "script.py",
        """
        import asyncio, sys
        print(sys.argv, __name__, __file__, sys.path[0])
        print(*[path for path in sys.path if "shim" in path])
        async def main():
            raise SystemExit(7)
        def work():
            raise ValueError("planted")
        if sys.argv[1] == "exit":
            asyncio.run(main())
        work()
        """,
    )
    for argument in ("exit", "raise"):
        status, output, errors = run(script, argument, "--record", "-x")
        same = subprocess.run(
            [sys.executable, script, argument, "--record", "-x"],
            capture_output=True,
            text=True,
            env=environment(),
        )
        assert status == same.returncode == {"exit": 7, "raise": 1}[argument]
        assert output == same.stdout
        assert "noria/sight" not in errors
        if argument == "raise":
            assert errors == same.stderr


def test_all_ways_to_get_a_loop_give_norias() -> None:
    script = write(
        "ways.py",
        f"""
        import asyncio, warnings
        warnings.simplefilter("error")
        async def main():
            {WHERE}
        asyncio.run(main())
        with asyncio.Runner() as runner:
            runner.run(main())
        with asyncio.Runner(loop_factory=None) as runner:
            runner.run(main())
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            runner.run(main())
            assert isinstance(runner.get_loop(), asyncio.SelectorEventLoop)
            assert runner.get_loop().model_name == "poll"
        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
        loop.close()
        class Own(asyncio.SelectorEventLoop):
            pass
        own = Own()
        own.run_until_complete(main())
        assert type(own) is Own and own.model_name == "poll"
        own.close()
        """,
    )
    status, output, errors = run("--model", "poll", script)
    assert (status, errors) == (0, "")
    assert output.split() == ["noria"] * 5 + ["__main__"]


@pytest.mark.skipif(sys.version_info >= (3, 16), reason="there are no policies")
def test_a_policy_that_the_program_sets_gives_norias_loop_unless_it_has_another() -> None:
    script = write(
        "policies.py",
        f"""
        import asyncio, warnings
        warnings.simplefilter("ignore")
        async def main():
            {WHERE}
        class Default(asyncio.DefaultEventLoopPolicy):
            pass
        class Own(asyncio.DefaultEventLoopPolicy):
            def new_event_loop(self):
                class Loop(asyncio.selector_events.BaseSelectorEventLoop):
                    pass
                return Loop()
        for policy in (asyncio.DefaultEventLoopPolicy(), Default(), Own(), None):
            asyncio.set_event_loop_policy(policy)
            asyncio.run(main())
        """,
    )
    status, output, errors = run(script)
    assert (status, errors) == (0, "")
    assert output.split() == ["noria", "noria", "__main__", "noria"]


def test_a_program_that_ends_by_raising_a_signal_is_recorded_whole(tmp_path: Path) -> None:
    script = write(
        "raises.py",
        """
        import asyncio, signal, time
        async def main():
            done = asyncio.Event()
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, done.set)
            print("ready", flush=True)
            await done.wait()
            time.sleep(0.3)
        asyncio.run(main())
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTERM)
        """,
    )
    process = start("--record", "run.noria", script)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    status, _, errors = finish(process)
    assert status == -signal.SIGTERM
    assert "noria: 1 finding" in errors
    assert ended(Path("run.noria"))
    assert not list(tmp_path.glob("noria/*.sock"))


def test_a_module_and_code_and_child_processes() -> None:
    write(
        "children.py",
        f"""
        import asyncio, multiprocessing, subprocess, sys
        async def main():
            {WHERE}
        def work():
            asyncio.run(main())
            sys.stdout.flush()
        if __name__ == "__main__":
            for method in ("fork", "spawn"):
                child = multiprocessing.get_context(method).Process(target=work)
                child.start()
                child.join()
            code = "import asyncio, children; children.work()"
            subprocess.run([sys.executable, "-c", code])
            print(sys.argv[1:])
        """,
    )
    status, output, errors = run("-m", "children", "--model", "x")
    assert (status, errors) == (0, "")
    assert output.split("\n")[:4] == ["noria"] * 3 + ["['--model', 'x']"]
    status, output, _ = run("-c", "import sys; print(sys.argv)", "-m", "a")
    assert (status, output) == (0, "['-c', '-m', 'a']\n")


@pytest.mark.parametrize("way", ["fork", "forkserver", "spawn", "pool", "executor", "in a loop"])
def test_the_findings_of_a_child_of_multiprocessing_are_shown(way: str, tmp_path: Path) -> None:
    script = write(
        "children.py",
        """
        import asyncio, multiprocessing, sys
        from concurrent.futures import ProcessPoolExecutor
        async def main():
            asyncio.get_running_loop().call_soon(lambda: 1 // 0)
            await asyncio.sleep(0)
        def work():
            asyncio.run(main())
        async def parent(child):
            child.start()
            await asyncio.to_thread(child.join)
        if __name__ == "__main__":
            way = sys.argv[1]
            fork = multiprocessing.get_context("fork")
            if way == "pool":
                pool = fork.Pool(1)
                pool.apply(work)
                pool.close()
                pool.join()
            elif way == "executor":
                with ProcessPoolExecutor(1, mp_context=fork) as executor:
                    executor.submit(work).result()
            elif way == "in a loop":
                asyncio.run(parent(fork.Process(target=work)))
            else:
                child = multiprocessing.get_context(way).Process(target=work)
                child.start()
                child.join()
        """,
    )
    status, _, errors = run("--json", "--record", "run.noria", script, way)
    assert status == 0
    (summary,) = [json.loads(line) for line in errors.splitlines() if line.startswith("{")]
    assert "exception-in-callback" in [finding["kind"] for finding in summary["findings"]]
    assert ended(tmp_path / f"run.{summary['pid']}.noria")


def test_what_was_seen_is_recorded_and_summarised() -> None:
    script = write(
        "blocks.py",
        """
        import asyncio, time
        async def main():
            time.sleep(0.3)
        asyncio.run(main())
        """,
    )
    status, _, errors = run("--record", "run.noria", "--max-block", "50", "--json", script)
    assert status == 0
    assert "is blocked, so far for" in errors
    summary = json.loads(errors.strip().split("\n")[-1])
    assert [finding["kind"] for finding in summary["findings"]] == ["loop-blocked"]
    assert summary["findings"][0]["place"]["source"] == "time.sleep(0.3)"
    with Recording.open("run.noria") as recording:
        (process,) = recording.objects("process")
        assert process["pid"] == summary["pid"]
        assert process["max_block"] == 50_000_000
        assert any(block["ended"] for block in recording.objects("block"))
        assert list(recording.objects("end"))
    assert run("--no-watch", script) == (0, "", "")


def test_a_signal_writes_a_flight_recording_and_ctrl_c_ends_the_program(tmp_path: Path) -> None:
    script = write(
        "waits.py",
        """
        import asyncio
        async def main():
            print("ready", flush=True)
            await asyncio.sleep(60)
        asyncio.run(main())
        """,
    )
    process = start("--dump-dir", str(tmp_path), script)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    socket = tmp_path / "noria" / f"{process.pid}.sock"
    end = time.monotonic() + 20
    while not socket.exists():
        assert time.monotonic() < end
    dump = tmp_path / f"noria-{process.pid}-signal-1.noria"
    while not dump.exists() or not ended(dump):
        process.send_signal(signal.SIGUSR2)
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    status, _, errors = finish(process)
    assert status == -signal.SIGINT
    assert "KeyboardInterrupt" in errors
    assert f"noria report {dump}" in errors
    assert not socket.exists()


def ended(path: Path) -> bool:
    try:
        with Recording.open(path) as recording:
            return bool(list(recording.objects("end")))
    except (OSError, ValueError, RecordingError):
        return False


def test_a_crash_in_the_first_step_leaves_the_records_of_each_loop() -> None:
    script = write(
        "crash.py",
        """
        import asyncio, os, signal
        async def ends(): pass
        async def crashes(): os.kill(os.getpid(), signal.SIGSEGV)
        asyncio.run(ends())
        asyncio.run(crashes())
        """,
    )
    status, _, errors = run(script)
    assert status == -signal.SIGSEGV, errors
    (path,) = Path.cwd().glob("*-crash-1.noria")
    with Recording.open(path) as recording:
        assert list(recording.loops()) == [0, 1]
        assert all(loop["thread_name"] == "MainThread" for loop in recording.loops().values())
        assert recording.records(0)
        assert recording.records(1)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "name the program"),
        (["-m"], 2, "name the program"),
        (["--model", "magic", "x.py"], 2, "unknown model"),
        (["--model", "blocking", "x.py"], 1, "cannot run asyncio"),
        (["--record", "/nowhere/at/all", "x.py"], 1, "/nowhere/at/all"),
        (["--metrics", "port", "x.py"], 2, "[HOST:]PORT"),
        (["--dump-signal", "SIGKILL", "x.py"], 2, "SIGKILL"),
        (["--max-block", "0", "x.py"], 2, "max-block"),
        (["--buffer", "100GiB", "x.py"], 2, "65536 (64 KiB) to 25769803776 bytes (24 GiB)"),
        (["--buffer", "1k", "x.py"], 2, "65536 (64 KiB) to 25769803776 bytes (24 GiB)"),
    ],
)
def test_wrong_use(arguments: list[str], status: int, message: str) -> None:
    from click.testing import CliRunner

    from noria.cli.main import noria

    result = CliRunner().invoke(noria, ["run", *arguments])
    text = result.output + str(result.exception or "")
    assert message in text
    if status == 2:
        assert result.exit_code == 2


def test_metrics_on_an_address_that_is_not_free_are_an_error() -> None:
    pytest.importorskip("prometheus_client")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        status, output, errors = run("--metrics", port, "-c", "print('ran')")
    assert (status, output) == (1, "")
    assert f"cannot serve metrics on 127.0.0.1:{port}: address already in use" in errors
    assert "choose another port with --metrics" in errors
    status, output, errors = run("--metrics", "192.0.2.1:0", "-c", "print('ran')")
    assert (status, output) == (1, "")
    assert "cannot serve metrics on 192.0.2.1:0: cannot assign requested address" in errors


def test_child_processes_do_not_need_the_address_of_the_metrics() -> None:
    pytest.importorskip("prometheus_client")
    script = write(
        "parent.py",
        """
        import asyncio, multiprocessing, subprocess, sys

        async def child():
            print("child", flush=True)

        def work():
            asyncio.run(child())

        def main():
            asyncio.run(asyncio.sleep(0))
            for method in ("fork", "spawn"):
                process = multiprocessing.get_context(method).Process(target=work)
                process.start()
                process.join()
                assert process.exitcode == 0
            subprocess.run([sys.executable, "-c", "import parent; parent.work()"], check=True)

        if __name__ == "__main__":
            main()
        """,
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    status, output, errors = run("--metrics", port, script)
    assert (status, output) == (0, "child\n" * 3), errors
    assert errors.count("metrics at http://") == 1
    assert "no metrics" not in errors


def test_the_usage_names_the_program() -> None:
    status, output, _ = run("--help")
    assert status == 0
    assert output.startswith(
        "Usage: noria run [OPTIONS] {SCRIPT | -m MODULE | -c CODE} [ARGS]...\n"
    )


def test_the_options_end_where_the_program_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    from noria.cli.main import noria

    calls = []
    monkeypatch.setattr(os, "execve", lambda *arguments: calls.append(arguments))
    for arguments in (
        ["--max-block", "5", "-m", "pytest", "-x"],
        ["--json", "app.py", "--json"],
        ["--", "-strange.py"],
        ["-mpytest", "--record", "y"],
    ):
        CliRunner().invoke(noria, ["run", *arguments], catch_exceptions=False)
    programs = [" ".join(command) for _, command, _ in calls]
    for program, end in zip(
        programs,
        (" -m pytest -x", " app.py --json", " -strange.py", " -mpytest --record y"),
        strict=True,
    ):
        assert program.endswith(end)
    options = json.loads(calls[0][2]["NORIA_RUN"])
    assert options["max_block"] == 0.005
    assert calls[0][2]["PYTHONPATH"].split(os.pathsep)[0].endswith("shim")
