"""fork(2): a child cannot use an inherited loop, and the parent's loop is unaffected."""

from __future__ import annotations

import pytest

from noria import models
from support.running import run

DRIVERS = ("select", "poll", "epoll", "epoll-edge", "io_uring")
ALL = (*DRIVERS, "nonblocking", "threaded", "blocking")

# Helpers: `child` runs `act` in a forked child, `ended` waits for it and checks its status.
COMMON = """
import asyncio, gc, os, signal, socket, sys, threading
import noria

MODEL = sys.argv[1]

def child(act):
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            act(parent)
            status = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid

def ended(pid):
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

def refused(parent, function, *arguments):
    try:
        function(*arguments)
    except RuntimeError as error:
        assert f"belongs to process {parent}:" in str(error), error
        assert "make a new loop in the child" in str(error), error
    else:
        raise AssertionError(f"{function} was not refused")

class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.transport.write(data)

async def ask(address, text):
    reader, writer = await asyncio.open_connection(*address)
    writer.write(text)
    assert await reader.readexactly(len(text)) == text
    writer.close()
    await writer.wait_closed()
"""


def check(code: str, model: str) -> None:
    works, why_not = models.availability(model)
    if not works:
        pytest.skip(why_not)
    # CPython warns about threads at a fork; here they are the executor's and the model's.
    run(COMMON + code, model, PYTHONWARNINGS="error,ignore:This process")


@pytest.mark.parametrize("model", ALL)
def test_a_forked_reactor_is_refused_and_the_parents_runs_on(model: str) -> None:
    check(
        """
reactor = noria.Reactor(MODEL)
server = reactor.listen(Echo)
ours, theirs = socket.socketpair()
watches = reactor.capability("readiness") != "none"
seen = []
def readable(sock, mask):
    try:
        seen.append(sock.recv(10, socket.MSG_DONTWAIT))
    except BlockingIOError:
        pass
if watches:
    reactor.register(ours, noria.READ, readable)
reactor.run_once(0)

def act(parent):
    refused(parent, reactor.run)
    refused(parent, reactor.run_once, 0)
    refused(parent, reactor.listen, Echo)
    if watches:
        refused(parent, reactor.register, 0, noria.READ, print)
        reactor.unregister(ours)
    reactor.stop()
    reactor.call_soon_threadsafe(print)
    with noria.Reactor(MODEL) as own:
        own.call_soon(own.stop)
        own.run()
    reactor.close()
    reactor.close()
ended(child(act))

def client():
    theirs.send(b"hello")
    with socket.create_connection(("127.0.0.1", server.port), 10) as sock:
        for turn in range(3):
            sock.sendall(b"hello")
            assert sock.recv(10) == b"hello"
    reactor.stop()
thread = threading.Thread(target=client)
thread.start()
reactor.run()
thread.join()
assert seen == ([b"hello"] if watches else []), seen
reactor.close()
ours.close()
theirs.close()
""",
        model,
    )


@pytest.mark.parametrize("model", DRIVERS)
def test_a_forked_asyncio_loop_is_refused_and_the_parents_runs_on(model: str) -> None:
    """One child each uses, closes, collects and ignores the inherited loop."""
    check(
        """
import tempfile
folder = tempfile.mkdtemp()
path = os.path.join(folder, "socket")
loop = noria.new_event_loop(MODEL)
keep = []
async def begin():
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    keep.append(await loop.create_unix_server(Echo, path))
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"one")
    assert await reader.readexactly(3) == b"one"
    return server, reader, writer
server, reader, writer = loop.run_until_complete(begin())
address = server.sockets[0].getsockname()

def use(parent):
    refused(parent, loop.run_forever)
    refused(parent, loop.add_reader, 0, print)
    refused(parent, loop.run_until_complete, asyncio.Future(loop=loop))
    loop.stop()
    loop.call_soon_threadsafe(print)
    noria.run(asyncio.sleep(0), model=MODEL)

def close(parent):
    keep[0].close()
    server.close()
    loop.close()
    assert loop.is_closed()

def collect(parent):
    import warnings
    warnings.simplefilter("ignore")     # unclosed transports, as they are
    global loop, server, reader, writer
    keep.clear()
    loop = server = reader = writer = None
    gc.collect()

def leave(parent):
    pass

async def exchange():
    writer.write(b"two")
    assert await reader.readexactly(3) == b"two"
    await ask(address, b"three")

for act in (use, close, collect, leave):
    ended(child(act))
    loop.run_until_complete(exchange())
assert os.path.exists(path)
async def end():
    keep[0].close()
    server.close()
    writer.close()
    await writer.wait_closed()
    await asyncio.sleep(0.01)
loop.run_until_complete(end())
loop.close()
if os.path.exists(path):
    os.unlink(path)
os.rmdir(folder)
""",
        model,
    )


@pytest.mark.parametrize("model", DRIVERS)
def test_a_child_has_no_descriptor_of_the_parents_model(model: str) -> None:
    check(
        """
loop = noria.new_event_loop(MODEL)
reader, writer = os.pipe()
loop.add_reader(reader, loop.stop)
loop.call_soon(loop.stop)
loop.run_forever()

def look(parent):
    links = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:
            pass    # it was listdir's own
    assert not [link for link in links if "eventpoll" in link or "io_uring" in link], links

ended(child(look))
os.write(writer, b"x")
loop.run_forever()      # the parent's reader is called still
loop.remove_reader(reader)
loop.close()
os.close(reader)
os.close(writer)
""",
        model,
    )


@pytest.mark.parametrize("model", DRIVERS)
def test_a_fork_inside_a_running_loop(model: str) -> None:
    """The child can run a new loop; returning into the parent's loop raises."""
    check(
        """
import multiprocessing

def work(queue, address):
    queue.put(noria.run(served(), model=MODEL))

async def served():
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)
    await ask(server.sockets[0].getsockname(), b"inner")
    server.close()
    return "inner"

async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    waiting = asyncio.ensure_future(loop.sock_recv(ours, 10))
    reader, writer = await asyncio.open_connection(*address)
    await asyncio.sleep(0)

    def act(parent):
        assert asyncio._get_running_loop() is None
        assert signal.set_wakeup_fd(-1) == -1
        assert noria.run(served(), model=MODEL) == "inner"
        refused(parent, loop.run_forever)
    pids = [child(act) for _ in range(2)]
    await ask(address, b"outer")
    for pid in pids:
        await asyncio.to_thread(ended, pid)

    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=work, args=(queue, address))
    process.start()
    assert await asyncio.to_thread(queue.get) == "inner"
    await asyncio.to_thread(process.join)
    assert process.exitcode == 0
    queue.close()

    # A child that goes back into the loop: what is due there is not handled twice.
    ran = []
    for number in range(5):
        loop.call_soon(ran.append, number)
    pid = os.fork()
    if pid == 0:
        loop.call_soon(os._exit, 3)
        await asyncio.sleep(0)
        os._exit(4)
    writer.write(b"after")
    assert await reader.readexactly(5) == b"after"
    _, status = await asyncio.to_thread(os.waitpid, pid, 0)
    assert os.waitstatus_to_exitcode(status) == 5, status
    assert ran == list(range(5))
    theirs.send(b"now")
    assert await waiting == b"now"
    writer.close()
    await writer.wait_closed()
    server.close()
    ours.close()
    theirs.close()

parent = os.getpid()
try:
    noria.run(main(), model=MODEL)
except RuntimeError as error:
    assert os.getpid() != parent, error
    assert f"belongs to process {parent}:" in str(error), error
    os._exit(5)
""",
        model,
    )


@pytest.mark.parametrize("model", ["epoll", "epoll-edge", "io_uring", "threaded", "blocking"])
def test_a_handler_that_forks_gets_no_more_events_in_the_child(model: str) -> None:
    """Events that were queued before the fork are handled in the parent only."""
    check(
        """
reactor = noria.Reactor(MODEL)
handled = []
class Forks(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        handled.append(os.getpid())
        if len(handled) == 1:
            self.pid = os.fork()
            if self.pid == 0:
                handled.clear()
                threading.Timer(0.3, lambda: os._exit(len(handled))).start()
                return
            ended(self.pid)
        self.transport.write(data)
server = reactor.listen(Forks)
def client():
    with socket.create_connection(("127.0.0.1", server.port), 10) as sock:
        for turn in range(3):
            sock.sendall(b"hello")
            assert sock.recv(10) == b"hello"
    reactor.stop()
thread = threading.Thread(target=client)
thread.start()
parent = os.getpid()
try:
    reactor.run()
except RuntimeError as error:
    assert f"belongs to process {parent}:" in str(error), error
    assert os.getpid() != parent, error
    import time
    time.sleep(30)
thread.join()
assert set(handled) == {parent} and len(handled) >= 3
reactor.close()
""",
        model,
    )


@pytest.mark.parametrize("model", DRIVERS)
def test_an_inherited_selector_is_refused(model: str) -> None:
    check(
        """
import selectors
ours, theirs = socket.socketpair()
selector = noria.selector(MODEL)
selector.register(ours, selectors.EVENT_READ)
selector.select(0)
def act(parent):
    refused(parent, selector.select, 0)
    refused(parent, selector.register, theirs, selectors.EVENT_READ)
    selector.unregister(ours)
    selector.close()
ended(child(act))
theirs.send(b"x")
assert [key.fileobj for key, _ in selector.select(10)] == [ours]
selector.close()
ours.close()
theirs.close()
""",
        model,
    )
