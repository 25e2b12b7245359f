"""The agent: what it sees of the loops of this process, and that it leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import noria
from noria.sight import lifetime
from noria.sight.recording import Recording, observe_recording
from noria.sight.socket_directory import (
    UnsafeDirectory,
    make_socket_directory,
    remove_stale_sockets,
)
from support.running import finish, line, run, start
from support.waiting import DEADLINE, eventually

pytestmark = pytest.mark.usefixtures("runtime_directory")


@contextlib.contextmanager
def watching(**options: Any) -> Iterator[Any]:
    with noria.watch(report_blocks=False, **options) as watch:
        assert watch.agent is not None
        yield watch.agent


def snapshot_of(agent: Any) -> dict[str, Any]:
    """Return a snapshot that is taken now."""
    agent._snapshot["time"] = agent._snapshot["cost"] = 0
    loops = agent.snapshot()["loops"]
    assert len(loops) == 1
    return dict(loops[0])


async def task_states(agent: Any) -> dict[str, dict[str, Any]]:
    snapshot = await asyncio.to_thread(snapshot_of, agent)
    return {task["name"]: task for task in snapshot["tasks"]}


def test_watches_may_be_nested_and_the_last_stop_ends_all(tmp_path: Path) -> None:
    outer = noria.watch()
    socket = outer.socket
    assert socket is not None
    assert Path(socket).parent == tmp_path / "noria"
    assert os.stat(socket).st_mode & 0o777 == 0o600
    with noria.watch() as inner:
        assert inner.agent is outer.agent
    inner.stop()
    assert Path(socket).exists()
    outer.stop()
    outer.stop()
    assert not Path(socket).exists()
    assert lifetime.active() is None


def test_a_watch_that_begins_in_a_running_loop_sees_it() -> None:
    async def main() -> None:
        async with noria.watch(report_blocks=False) as watch:
            assert watch.agent is not None
            (loop,) = watch.agent.hello()["loops"]
            assert loop["model"] == asyncio.get_running_loop().model_name  # type: ignore[attr-defined]
            assert loop["thread_name"] == threading.current_thread().name
            await asyncio.sleep(0)
            assert watch.agent.loops[0].recorder.head > 0

    noria.run(main())


def test_a_snapshot_has_what_the_thread_of_the_loop_ran() -> None:
    async def main() -> None:
        async with noria.watch(report_blocks=False) as watch:
            before = (await asyncio.to_thread(snapshot_of, watch.agent))["schedstat"]
            end = time.thread_time() + 0.05
            while time.thread_time() < end:
                pass
            after = (await asyncio.to_thread(snapshot_of, watch.agent))["schedstat"]
            assert before[0] == after[0] == threading.get_native_id()
            assert after[1] - before[1] > 40_000_000
            assert after[2] >= before[2]

    if not Path("/proc/self/schedstat").exists():
        pytest.skip("the kernel has no schedstat")
    noria.run(main())


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="max_block"):
        noria.watch(max_block=0)
    for buffer in (10, 65535, 100 << 30):
        with pytest.raises(ValueError, match="65536 to 25769803776 bytes"):
            noria.watch(buffer=buffer)
    with pytest.raises(ValueError, match="65536 to 25769803776 bytes"):
        noria.record("/nowhere/at/all", buffer=100 << 30)
    with pytest.raises(OSError, match="nowhere"):
        noria.record("/nowhere/at/all")
    assert lifetime.active() is None


def test_a_recording_that_cannot_be_begun_leaves_nothing() -> None:
    with pytest.raises(OSError, match="No space left"):
        noria.record("/dev/full")
    assert lifetime.active() is None


def test_the_socket_directory_must_be_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "noria").symlink_to(tmp_path)
    with pytest.raises(UnsafeDirectory, match="not a directory"):
        noria.watch()
    assert lifetime.active() is None
    (tmp_path / "noria").unlink()
    directory = make_socket_directory()
    directory.chmod(0o777)
    assert make_socket_directory().stat().st_mode & 0o777 == 0o700
    if os.getuid() == 0:
        os.chown(directory, 12345, -1)
        with pytest.raises(UnsafeDirectory, match="12345"):
            make_socket_directory()


def test_sockets_of_dead_processes_are_removed() -> None:
    directory = make_socket_directory()
    dead = directory / "4194305.sock"  # above the largest process id
    alive = directory / f"{os.getppid()}.sock"
    for path in (dead, alive):
        path.touch()
    remove_stale_sockets(directory)
    assert not dead.exists()
    assert alive.exists()


async def sleeper() -> None:
    await asyncio.sleep(DEADLINE)


async def lost() -> None:
    future: asyncio.Future[None] = asyncio.Future()
    await future


async def reader_of(reader: asyncio.StreamReader) -> None:
    await reader.readline()


def test_a_snapshot_has_the_await_stack_of_each_task() -> None:
    async def awaiter(task: asyncio.Task[None]) -> None:
        await task

    async def grouping() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(sleeper(), name="member")

    async def gathering() -> None:
        await asyncio.gather(asyncio.create_task(sleeper(), name="gathered"))

    async def locking(lock: asyncio.Lock) -> None:
        async with lock:
            pass

    async def main() -> None:
        lock = asyncio.Lock()
        await lock.acquire()
        asleep = asyncio.create_task(sleeper(), name="asleep")
        tasks = [
            asleep,
            asyncio.create_task(awaiter(asleep), name="awaiter"),
            asyncio.create_task(lost(), name="lost"),
            asyncio.create_task(grouping(), name="grouping"),
            asyncio.create_task(gathering(), name="gathering"),
            asyncio.create_task(locking(lock), name="locking"),
        ]
        for _ in range(5):
            await asyncio.sleep(0)
        states = await task_states(lifetime.active())
        asleep_state = states["asleep"]
        assert [place[0] for place in asleep_state["waiting_at"]] == ["sleeper", "sleep"]
        assert asleep_state["waiting_at"][0][3] == "await asyncio.sleep(DEADLINE)"
        assert asleep_state["waiting_for"] == "sleep"
        assert asleep_state["state"] == "waiting"
        assert not asleep_state["orphaned"]
        assert asleep_state["awaited_by"] == [states["awaiter"]["id"]]
        assert states["awaiter"]["waiting_for"] == "asleep"
        assert states["lost"]["orphaned"]
        assert states["member"]["awaited_by"] == [states["grouping"]["id"]]
        assert states["grouping"]["waiting_for"] == "TaskGroup"
        assert states["gathered"]["awaited_by"] == [states["gathering"]["id"]]
        assert states["locking"]["waiting_for"] == "Lock"
        assert not states["locking"]["orphaned"]
        (main_task,) = [state for state in states.values() if state.get("main")]
        assert main_task["id"] == id(asyncio.current_task())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    with watching():
        noria.run(main())


def test_a_snapshot_has_the_connections_with_what_the_kernel_holds() -> None:
    async def main() -> None:
        accepted: asyncio.Queue[Any] = asyncio.Queue()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await accepted.put((reader, writer))

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(*address)
        _, other = await accepted.get()
        other.transport.pause_reading()
        task = asyncio.create_task(reader_of(reader), name="reads")
        await asyncio.sleep(0)
        writer.write(b"x" * 1000)
        port = writer.get_extra_info("sockname")[1]

        def of_server(snapshot: dict[str, Any]) -> Any:
            for each in snapshot["connections"]:
                if each["peer"] == f"127.0.0.1:{port}" and each["unread"] + each["buffered"]:
                    return each
            return None

        agent = lifetime.active()
        end = time.monotonic() + DEADLINE
        while not of_server(snapshot := await asyncio.to_thread(snapshot_of, agent)):
            assert time.monotonic() < end
        assert of_server(snapshot)["reading_paused"]
        (ours,) = [each for each in snapshot["connections"] if each["local"] == f"127.0.0.1:{port}"]
        assert ours["user"][0] == "reader_of"
        assert "StreamReaderProtocol" in ours["protocol"]
        task.cancel()
        for each in (writer, other):
            each.close()
            await each.wait_closed()
        server.close()
        await server.wait_closed()

    with watching():
        noria.run(main())


def test_errors_are_counted_and_the_programs_handler_sees_the_same() -> None:
    async def fails() -> None:
        raise ZeroDivisionError("planted")

    async def main() -> None:
        contexts: list[dict[str, Any]] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: contexts.append(context))
        asyncio.create_task(fails())  # noqa: RUF006
        loop.create_future().set_exception(KeyError("planted"))
        loop.call_soon(lambda: 1 / 0)
        pending = asyncio.create_task(lost())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        del pending
        gc.collect()
        errors = (await asyncio.to_thread(snapshot_of, lifetime.active()))["errors"]
        kinds = {error["kind"]: error for error in errors}
        assert set(kinds) == {
            "callback",
            "task never retrieved",
            "future never retrieved",
            "task destroyed pending",
        }
        assert kinds["future never retrieved"]["type"] == "KeyError"
        assert kinds["task never retrieved"]["type"] == "ZeroDivisionError"
        assert kinds["task never retrieved"]["place"][3] == 'raise ZeroDivisionError("planted")'
        assert kinds["task destroyed pending"]["place"][0] == "lost"
        assert kinds["callback"]["place"][3] == "loop.call_soon(lambda: 1 / 0)"
        assert sorted(context["message"] for context in contexts)[1:] == [
            "Future exception was never retrieved",
            "Task exception was never retrieved",
            "Task was destroyed but it is pending!",
        ]

    with watching():
        noria.run(main())


def test_jobs_collections_and_marks_are_recorded(tmp_path: Path) -> None:
    def job() -> str:
        return "done"

    async def main() -> None:
        assert await asyncio.to_thread(job) == "done"
        with pytest.raises(ZeroDivisionError):
            await asyncio.get_running_loop().run_in_executor(None, divmod, 1, 0)
        gc.collect()
        noria.mark("here")

    path = tmp_path / "it.noria"
    with noria.record(path, report_blocks=False):
        noria.run(main())
    with Recording.open(path) as recording:
        names = {
            name: kind for each in recording.objects("names") for _, kind, name, *_ in each["names"]
        }
        kinds = [record[0] for body in recording.records(0) for record in records(body)]
    assert names["here"] == "string"
    assert any("job" in name for name, kind in names.items() if kind == "code")
    assert [kinds.count(kind) for kind in (42, 43, 44)] == [2, 2, 2]
    assert kinds.count(45) == kinds.count(46) > 0
    assert kinds.count(58) == 1


def records(body: memoryview) -> Iterator[tuple[int, int, int]]:
    words = memoryview(bytes(body)).cast("Q")
    for index in range(0, len(words), 3):
        yield words[index] & 255, words[index + 1], words[index + 2]


def test_a_recording_has_the_errors_of_its_end(tmp_path: Path) -> None:
    path = tmp_path / "end.noria"

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        agent = lifetime.active()
        assert agent is not None
        agent.snapshot(fresh=True)
        asyncio.get_running_loop().call_exception_handler({"message": "at the end"})

    with noria.record(path, socket=False):
        noria.run(main())
    (loop,) = observe_recording(path).loops
    assert [error.message for error in loop.errors] == ["at the end"]


def test_the_loops_methods_are_its_own_again_after_a_watch() -> None:
    before = {
        name: vars(noria.EventLoop).get(name)
        for name in ("run_in_executor", "call_exception_handler")
    }
    callbacks = list(gc.callbacks)
    with watching():
        assert gc.callbacks != callbacks
    assert gc.callbacks == callbacks
    assert {name: vars(noria.EventLoop).get(name) for name in before} == before


def test_a_recording_of_a_killed_program_opens(tmp_path: Path) -> None:
    path = tmp_path / "killed.noria"
    process = start(
        """
        import asyncio, sys, noria
        async def main():
            recording = noria.record(sys.argv[1])
            await asyncio.sleep(0.01)
            await asyncio.to_thread(recording.flush)
            print(recording.records, flush=True)
            await asyncio.sleep(60)
        noria.run(main())
        """,
        str(path),
    )
    written = int(line(process))
    process.kill()
    finish(process)
    with Recording.open(path) as recording:
        assert [each["pid"] for each in recording.objects("process")] == [process.pid]
        assert sum(len(body) for body in recording.records(0)) // 24 >= written > 0


def test_attached_and_detached_a_thousand_times_under_load() -> None:
    rounds = 1000
    done = threading.Event()
    turns = 0

    async def load() -> None:
        nonlocal turns
        queue: asyncio.Queue[int] = asyncio.Queue()
        while not done.is_set():
            await queue.put(1)
            turns += await queue.get()
            await asyncio.sleep(0)

    thread = threading.Thread(target=lambda: noria.run(load()))
    thread.start()
    eventually(lambda: turns)
    with watching(socket=False, buffer=65536) as agent:
        eventually(lambda: agent.loops)
        loop = agent.loops[0].loop
    descriptors = len(os.listdir("/proc/self/fd"))
    from noria._core.recorder.ring import Recorder

    for number in range(rounds):
        if number % 20 == 0:
            with watching(socket=number % 40 == 0, buffer=65536) as agent:
                assert agent.loops[0].loop is loop
        else:
            recorder = Recorder(256)
            loop.attach_recorder(recorder)
            loop.detach_recorder()
            recorder.close()
    assert len(os.listdir("/proc/self/fd")) == descriptors
    before = turns
    eventually(lambda: turns > before)
    done.set()
    thread.join()


def test_the_child_of_a_fork_starts_an_agent_of_its_own() -> None:
    output = run(
        """
        import asyncio, os, sys, noria
        from noria.sight import lifetime
        watch = noria.watch(report_blocks=False)
        async def main():
            return lifetime.active().pid, lifetime.active().server.path.name
        first = noria.run(main())
        head = lifetime.active().loops[0].recorder.head
        child = os.fork()
        if not child:
            assert lifetime.active() is None
            assert noria.run(main()) == (os.getpid(), f"{os.getpid()}.sock")
            watch.stop()
            assert lifetime.active() is None
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert first == (os.getpid(), f"{os.getpid()}.sock") == noria.run(main())
        print(sorted(os.listdir(lifetime.active().server.path.parent)) == [first[1]])
        watch.stop()
        """
    )
    assert output.strip() == "True"


def test_a_crash_leaves_a_flight_recording(tmp_path: Path) -> None:
    path = tmp_path / "crash.noria"
    process = start(
        """
        import asyncio, faulthandler, os, signal, sys, noria
        faulthandler.enable()
        from noria.sight import lifetime
        watch = noria.watch()
        async def main():
            lifetime.active().flight_recorder.write_on_crash(sys.argv[1])
            os.kill(os.getpid(), signal.SIGSEGV)
        noria.run(main())
        """,
        str(path),
    )
    status, _, errors = finish(process)
    assert status == -signal.SIGSEGV
    assert "Segmentation fault" in errors
    assert f"flight recording of the crash: {path}" in errors
    with Recording.open(path) as recording:
        assert [each["what"] for each in recording.objects()] == ["process", "loop", "names"]
        assert recording.records(0)


def test_a_snapshot_during_the_collection_of_a_task_does_not_hide_where_it_waited() -> None:
    """Callbacks of weak references run between asyncio's removal of a task and its finalizer."""

    async def lost() -> None:
        await asyncio.get_running_loop().create_future()

    line = lost.__code__.co_firstlineno + 1

    async def main(agent: Any) -> list[dict[str, Any]]:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        task = asyncio.create_task(lost())
        await asyncio.sleep(0)
        await asyncio.to_thread(snapshot_of, agent)
        seen: list[dict[str, Any]] = []
        reference = weakref.ref(task, lambda _: seen.append(agent.snapshot(fresh=True)))
        gc.disable()
        try:
            del task
            gc.collect()
        finally:
            gc.enable()
        assert reference() is None
        assert len(seen) == 1
        return list(snapshot_of(agent)["errors"])

    with watching() as agent:
        (error,) = noria.run(main(agent))
    assert error["kind"] == "task destroyed pending"
    assert error["place"][2] == line
