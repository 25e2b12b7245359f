"""The pytest plugin: tests that block the loop, or leave something behind, fail."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest


def run(tmp_path: Path, source: str, *options: str) -> tuple[int, str]:
    """Run pytest with the plugin on a file; return its exit status and output."""
    file = tmp_path / "test_program.py"
    file.write_text(textwrap.dedent(source))
    command = [sys.executable, "-m", "pytest", "-p", "noria.sight.pytest_plugin", "-q"]
    command += ["-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:asyncio", "-p", "no:anyio"]
    environment = {
        **os.environ,
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTEST_ADDOPTS": "",
    }
    done = subprocess.run(
        [*command, *options, str(file)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


BLOCKING = """
    import asyncio, time
    import pytest

    async def blocks():
        time.sleep(0.4)

    def test_blocks():
        asyncio.run(blocks())

    def test_does_not():
        asyncio.run(asyncio.sleep(0.01))

    @pytest.mark.max_block("30s")
    def test_may():
        asyncio.run(blocks())
"""


def test_a_test_that_blocks_the_loop_fails_with_its_stack(tmp_path: Path) -> None:
    status, text = run(tmp_path, BLOCKING, "--noria-max-block=200ms")
    assert status == 1, text
    assert "1 failed, 2 passed" in text
    found = re.search(r"test_program\.py:(\d+): the event loop was blocked for", text)
    assert found, text
    lines = textwrap.dedent(BLOCKING).splitlines()
    assert "time.sleep" in lines[int(found[1]) - 1]


LEAKING = """
    import asyncio, socket

    kept = []

    def test_task():
        loop = asyncio.new_event_loop()
        async def waits():
            await asyncio.Event().wait()
        async def main():
            kept.append(asyncio.create_task(waits()))
            await asyncio.sleep(0)
        loop.run_until_complete(main())
        kept.append(loop)

    def test_descriptor():
        kept.append(socket.socket())

    def test_clean():
        asyncio.run(asyncio.sleep(0))
"""


def test_tests_that_leave_tasks_or_descriptors_fail(tmp_path: Path) -> None:
    status, text = run(tmp_path, LEAKING, "--noria-leaks", "-W", "ignore")
    assert status == 1, text
    assert "2 failed, 1 passed" in text or "2 errors" in text, text
    assert "task" in text
    assert "descriptor" in text


CONNECTING = """
    import asyncio

    kept = []

    async def answer(reader, writer):
        await reader.read()
        writer.close()

    async def main(closes):
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        if closes:
            writer.close()
            await writer.wait_closed()
        else:
            kept.append(writer)
        server.close()
        await asyncio.sleep(0.1)

    def test_leaves_a_connection():
        asyncio.run(main(False))

    def test_closes_it():
        asyncio.run(main(True))

    def test_task():
        async def main():
            asyncio.create_task(waits())
            await asyncio.sleep(0)
        async def waits():
            await asyncio.Event().wait()
        asyncio.run(main())
"""


def test_what_asyncio_run_has_to_end_is_a_leak(tmp_path: Path) -> None:
    """The descriptors of the watchdog, which --noria-max-block uses too, are none."""
    status, text = run(
        tmp_path, CONNECTING, "--noria-leaks", "--noria-max-block=30s", "-W", "ignore"
    )
    assert status == 1, text
    assert "2 failed, 1 passed" in text, text
    assert re.search(r"connection 127\.0\.0\.1:\d+ to 127\.0\.0\.1:\d+", text), text
    assert re.search(r"test_program\.py:\d+: task 'Task-\d+' of test_task.<locals>.waits", text)
    assert "schedstat" not in text


SHARING = """
    import asyncio, socket, unittest
    import pytest

    async def answer(reader, writer):
        while line := await reader.readline():
            writer.write(line)
        writer.close()

    @pytest.fixture(scope="class")
    def loop():
        loop = asyncio.new_event_loop()
        yield loop
        loop.close()

    @pytest.fixture(scope="class")
    def address(loop):
        server = loop.run_until_complete(asyncio.start_server(answer, "127.0.0.1", 0))
        yield server.sockets[0].getsockname()
        server.close()

    @pytest.fixture(scope="class")
    def pool(loop):
        idle = []
        yield idle
        for connection in idle:
            connection.close()
        loop.run_until_complete(asyncio.sleep(0.01))

    async def call(address):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"x\\n")
        assert await reader.readline() == b"x\\n"
        return writer

    async def wait():
        await asyncio.Event().wait()

    async def leave_a_task():
        asyncio.create_task(wait())
        await asyncio.sleep(0)

    kept = []

    class TestShared:
        def test_keeps_a_connection_alive(self, loop, address, pool):
            pool.append(loop.run_until_complete(call(address)))

        def test_closes_its_connection(self, loop, address, pool):
            loop.run_until_complete(call(address)).close()

        def test_keeps_a_connection_of_no_loop(self, pool, address):
            pool.append(socket.create_connection(address))

        def test_leaks_in_its_own_loop(self, pool):
            asyncio.run(leave_a_task())

    def test_leaks_a_descriptor():
        kept.append(socket.socket())

    class TestSetUpClass(unittest.TestCase):
        @classmethod
        def setUpClass(cls):
            cls.sockets = []

        @classmethod
        def tearDownClass(cls):
            for sock in cls.sockets:
                sock.close()

        def test_shares(self):
            self.sockets.append(socket.socket())

    class TestPlain(unittest.TestCase):
        def test_leaks_a_descriptor_too(self):
            kept.append(socket.socket())
"""


def test_what_a_fixture_of_a_wider_scope_may_own_is_no_leak(tmp_path: Path) -> None:
    status, text = run(tmp_path, SHARING, "--noria-leaks", "-W", "ignore", "-rfE")
    assert status == 1, text
    failed = set(re.findall(r"^(?:FAILED|ERROR) \S*::(\w+)", text, re.MULTILINE))
    assert failed == {
        "test_leaks_in_its_own_loop",
        "test_leaks_a_descriptor",
        "test_leaks_a_descriptor_too",
    }, text
    assert "only a test's own loops are checked for leaks: address, loop, pool\n" in text


def test_without_options_nothing_is_watched(tmp_path: Path) -> None:
    source = """
        import asyncio, sys

        def test_loop():
            loop = asyncio.new_event_loop()
            assert not type(loop).__module__.startswith("noria")
            loop.close()
            assert "noria.sight.pytest_checks" not in sys.modules
    """
    status, text = run(tmp_path, source)
    assert status == 0, text


def test_a_marker_alone_suffices(tmp_path: Path) -> None:
    source = """
        import asyncio, time
        import pytest

        async def blocks():
            time.sleep(0.4)

        @pytest.mark.max_block("100ms")
        def test_marked():
            asyncio.run(blocks())

        def test_not_marked():
            asyncio.run(blocks())
    """
    status, text = run(tmp_path, source, "--strict-markers")
    assert status == 1, text
    assert "1 failed, 1 passed" in text, text
    assert "limit: 100 ms" in text, text


@pytest.mark.parametrize("options", [(), ("--noria-max-block=10s",)])
def test_a_wrong_marker_fails_its_test_only(tmp_path: Path, options: tuple[str, ...]) -> None:
    source = """
        import pytest

        @pytest.mark.max_block("soon")
        def test_text():
            raise AssertionError

        @pytest.mark.max_block(blocks=3)
        def test_argument():
            raise AssertionError

        def test_not_marked():
            pass
    """
    status, text = run(tmp_path, source, *options)
    assert status == 1, text
    assert "1 passed, 2 errors" in text, text
    assert "max_block: 'soon' is not a time" in text
    assert 'max_block: write max_block("50ms")' in text
    status, text = run(tmp_path, source, *options, "--collect-only")
    assert status == 0, text


def test_the_loop_can_be_chosen(tmp_path: Path) -> None:
    source = """
        import asyncio

        async def model():
            return asyncio.get_running_loop().model_name

        def test_loop():
            assert asyncio.run(model()) == "epoll"
    """
    status, text = run(tmp_path, source, "--noria-loop=epoll")
    assert status == 0, text


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--noria-max-block=soon", "is not a time"),
        ("--noria-loop=blocking", "blocking"),
        ("--noria-loop=fast", "fast"),
    ],
)
def test_wrong_options_are_errors_of_use(tmp_path: Path, option: str, message: str) -> None:
    status, text = run(tmp_path, "def test_nothing(): pass", option)
    assert status == 4, text
    assert message in text
    assert "Traceback" not in text
