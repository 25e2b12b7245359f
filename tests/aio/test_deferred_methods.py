"""The loop's methods whose modules are imported when one of them is first used."""

from __future__ import annotations

import importlib
import inspect

import pytest

import noria
from noria.aio.loop import DEFERRED_METHODS, DeferredMethod
from support.running import run


@pytest.mark.parametrize("source", DEFERRED_METHODS, ids=lambda source: source[1])
def test_each_method_of_the_classes_is_deferred(source: tuple[str, str]) -> None:
    module, cls = source
    defined = vars(getattr(importlib.import_module(module), cls))
    methods = {
        name
        for name, value in defined.items()
        if inspect.isfunction(value) or isinstance(value, property)
    }
    assert methods == set(DEFERRED_METHODS[source])


@pytest.mark.parametrize("name", ["create_connection", "create_server", "sock_connect", "sendfile"])
def test_a_method_looks_like_asyncios_before_it_is_loaded(name: str) -> None:
    run(
        """
import asyncio, inspect, sys
import noria
name = sys.argv[1]
loop = noria.new_event_loop()
assert inspect.iscoroutinefunction(getattr(loop, name))
assert getattr(loop, name).__self__ is loop
method = getattr(noria.EventLoop, name)
assert inspect.isfunction(method) and method.__name__ == name
theirs = inspect.signature(getattr(asyncio.AbstractEventLoop, name)).parameters
assert len(inspect.signature(method).parameters) >= len(theirs)
assert vars(noria.EventLoop)[name] is method
loop.close()
""",
        name,
    )


def test_subclasses_call_a_deferred_method_with_super() -> None:
    run(
        """
import asyncio, socket
import noria
class Loop(noria.EventLoop):
    async def sock_connect(self, sock, address):
        called.append(address)
        await super().sock_connect(sock, address)
called = []
async def main():
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    reader, writer = await asyncio.open_connection(*address)
    assert await reader.read() == b""
    writer.close()
    server.close()
    assert called == [address]
with asyncio.Runner(loop_factory=Loop) as runner:
    runner.run(main())
"""
    )


def test_a_replaced_method_stays_when_its_module_is_loaded() -> None:
    run(
        """
import noria
def replacement(self): pass
noria.EventLoop.create_unix_server = replacement
noria.EventLoop.create_server
assert noria.EventLoop.create_unix_server is replacement
"""
    )


def test_a_restored_stand_in_still_finds_the_method() -> None:
    """unittest.mock.patch reads the class's dict and sets what it found there again."""
    run(
        """
from unittest import mock
import noria
with mock.patch.object(noria.EventLoop, "create_server"):
    noria.EventLoop.create_unix_server
method = noria.EventLoop.create_server
assert method.__name__ == "create_server"
assert vars(noria.EventLoop)["create_server"] is method
"""
    )


def test_threads_load_the_methods_together() -> None:
    run(
        """
import socket, threading
import asyncio
import noria
barrier = threading.Barrier(4)
done = []
async def main():
    left, right = socket.socketpair()
    left.setblocking(False)
    with left, right:
        barrier.wait()
        transport, _ = await asyncio.get_running_loop().create_connection(
            asyncio.Protocol, sock=left
        )
        transport.close()
        await asyncio.sleep(0)
    done.append(None)
threads = [threading.Thread(target=noria.run, args=(main(),)) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert len(done) == 4
"""
    )


def test_no_stand_in_stays_in_a_loaded_module() -> None:
    for source, names in DEFERRED_METHODS.items():
        assert getattr(noria.EventLoop, names[0]), source
        for name in names:
            assert type(vars(noria.EventLoop)[name]) is not DeferredMethod


def test_the_first_call_without_free_descriptors_raises_oserror_and_a_later_one_works() -> None:
    """The import of the method's module fails as the socket would: with EMFILE."""
    out = run(
        """
import asyncio, errno, os, resource
import noria

async def main():
    loop = asyncio.get_running_loop()
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    held = []
    try:
        while True:
            held.append(os.dup(0))
    except OSError:
        pass
    for name in ("create_connection", "create_server", "create_datagram_endpoint"):
        try:
            await getattr(loop, name)(asyncio.Protocol, "127.0.0.1", 1)
        except OSError as error:
            print(error.errno == errno.EMFILE)
    for fd in held:
        os.close(fd)
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    server.close()
    print("listened")

noria.run(main())
"""
    )
    assert out.split() == ["True", "True", "True", "listened"]


def test_functions_of_os_that_a_tool_has_replaced_before_are_not_called() -> None:
    """blockbuster replaces them at the start of a test; asyncio's loop may still call its own."""
    run(
        """
import asyncio, os, pathlib, socket, sys, tempfile
import noria
def refuse(*args, **kwargs):
    raise AssertionError("a blocking call")
async def main():
    for name in ("stat", "remove", "unlink", "sendfile"):
        setattr(os, name, refuse)
    loop = asyncio.get_running_loop()
    server = await asyncio.start_unix_server(lambda reader, writer: None, path)
    server.close()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs, open(sys.executable, "rb") as file:
        assert await loop.sock_sendfile(ours, file, 0, 100) == 100
        assert theirs.recv(100) == pathlib.Path(sys.executable).read_bytes()[:100]
with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "socket")
    given = {name: getattr(os, name) for name in ("stat", "remove", "unlink", "sendfile")}
    try:
        noria.run(main())
    finally:
        for name, function in given.items():
            setattr(os, name, function)
"""
    )
