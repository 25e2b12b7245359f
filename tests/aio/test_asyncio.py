"""The asyncio loop: what noria adds, and faults of other loops that it must not have.

NORIA_COUNTS=full repeats them often enough to find rare faults.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

import noria
from support.loops import FULL, MODELS, Keeper, count, pair, until

LONG = pytest.mark.timeout(600 if FULL else 60)


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# Features that only noria has.


@pytest.mark.parametrize("name", ["blocking", "threaded", "nonblocking"])
def test_models_that_cannot_drive_asyncio_say_so(name):
    with pytest.raises(noria.Unsupported, match=r"use select, poll, epoll|Use select, poll, epoll"):
        noria.new_event_loop(name)


def test_run_takes_a_model(model):
    async def main() -> str:
        loop: Any = asyncio.get_running_loop()
        return str(loop.model_name)

    assert noria.run(main(), model=model) == model


def test_run_refuses_inside_a_loop():
    async def main() -> None:
        inner = asyncio.sleep(0)
        try:
            with pytest.raises(RuntimeError, match="running event loop"):
                noria.run(inner)
        finally:
            inner.close()

    noria.run(main())


def test_install_makes_it_the_loop_of_asyncio_run():
    code = (
        "import asyncio, noria\n"
        "async def main(): return type(asyncio.get_running_loop())\n"
        "noria.install('poll')\n"
        "assert asyncio.run(main()) is noria.EventLoop\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_transports_are_asyncio_transports(model):
    async def main() -> None:
        client, keeper, server = await pair()
        assert isinstance(client.transport, asyncio.Transport)
        assert client.transport.get_extra_info("peername") == keeper.transport.get_extra_info(
            "sockname"
        )
        client.transport.close()
        await client.lost
        await keeper.lost
        # Also after the close, when the socket has no address any more.
        assert keeper.transport.get_extra_info("peername")[0] == "127.0.0.1"
        server.close()

    noria.run(main(), model=model)


def test_handles_are_taken_for_asyncios(model):
    async def main() -> None:
        loop = asyncio.get_running_loop()
        soon, timer = loop.call_soon(int), loop.call_later(60, int)
        later = loop.call_later(90, int)
        assert isinstance(soon, asyncio.Handle)
        assert not isinstance(soon, asyncio.TimerHandle)
        assert isinstance(timer, asyncio.TimerHandle)
        assert isinstance(timer, asyncio.Handle)
        assert sorted([later, timer]) == [timer, later]
        assert timer < later <= later
        assert later > timer >= timer
        for handle in (soon, timer, later):
            handle.cancel()
            assert "cancelled" in repr(handle)

    noria.run(main(), model=model)


def test_callbacks_of_a_connection_share_a_context_of_their_own(model):
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")

    class Setter(Keeper):
        def data_received(self, data: bytes) -> None:
            super().data_received(variable.get().encode())
            variable.set(data.decode())

    async def main() -> None:
        loop = asyncio.get_running_loop()
        setters = []

        def factory() -> Setter:
            setters.append(Setter())
            return setters[-1]

        server = await loop.create_server(factory, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        ends = [await loop.create_connection(Keeper, *address) for _ in range(2)]
        for number, (transport, _) in enumerate(ends):
            transport.write(f"{number}".encode())
        await until(lambda: len(setters) == 2 and all(s.data for s in setters))
        assert [bytes(s.data) for s in setters] == [b"none", b"none"]
        for transport, _ in ends:
            transport.close()
        for setter in setters:
            await setter.lost
        assert variable.get() == "none"
        server.close()

    noria.run(main(), model=model)


# Bugs of other loops, one test each.


@LONG
def test_reused_descriptor_gets_no_data_of_its_former_owner(model):
    """Open, wait, cancel, close, reopen: an old request must not receive the new data."""
    rounds = count(2000, 100_000)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for number in range(rounds):
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            waiting = asyncio.ensure_future(loop.sock_recv(ours, 100))
            await asyncio.sleep(0)
            if number % 2:
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
                theirs.send(b"for nobody")
            else:
                theirs.send(b"%d" % number)
                assert await waiting == b"%d" % number
            ours.close()
            theirs.close()

    noria.run(main(), model=model)


@LONG
def test_bytes_never_cross_between_connections(model):
    connections, bursts, burst = 20, count(200, 5000), 10

    class Echo(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(data)

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()

        async def client(tag: int) -> None:
            reader, writer = await asyncio.open_connection(*address)
            for number in range(bursts):
                message = b"".join(b"%04d:%06d:%02d;" % (tag, number, n) for n in range(burst))
                writer.write(message)
                assert await reader.readexactly(len(message)) == message
            writer.close()
            await writer.wait_closed()

        await asyncio.gather(*(client(tag) for tag in range(connections)))
        server.close()

    noria.run(main(), model=model)


def test_data_after_pause_reading_is_held_not_lost(model):
    async def main() -> None:
        client, keeper, server = await pair()
        sent = bytearray()
        for number in range(50):
            keeper.transport.pause_reading()
            message = b"%d," % number * 1000
            client.transport.write(message)
            sent += message
            before = len(keeper.data)
            await asyncio.sleep(0.001)
            assert len(keeper.data) == before
            keeper.transport.resume_reading()
            await asyncio.sleep(0)
        client.transport.close()
        await keeper.lost
        assert keeper.data == sent
        server.close()

    noria.run(main(), model=model)


def test_write_then_close_delivers_all(model):
    async def main() -> None:
        client, keeper, server = await pair()
        client.transport.write(b"x" * 5_000_000)
        client.transport.close()
        assert await keeper.lost is None
        assert len(keeper.data) == 5_000_000
        server.close()

    noria.run(main(), model=model)


def test_half_close_both_ways(model):
    async def main() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked = await reader.read()
            writer.write(asked[::-1])
            writer.write_eof()
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"abc")
        writer.write_eof()
        assert await reader.read() == b"cba"
        writer.close()
        await writer.wait_closed()
        server.close()

    noria.run(main(), model=model)


def test_what_was_written_is_what_the_buffer_held_then(model):
    async def main() -> None:
        client, keeper, server = await pair()
        keeper.transport.pause_reading()
        size = 4_000_000
        buffer = bytearray(b"a" * size)
        client.transport.write(buffer)
        client.transport.write(memoryview(buffer))
        buffer[:] = b"b" * size
        keeper.transport.resume_reading()
        client.transport.close()
        await keeper.lost
        assert keeper.data == b"a" * (2 * size)
        server.close()

    noria.run(main(), model=model)


def test_many_small_writes_to_a_full_socket_are_kept_in_order(model):
    async def main() -> None:
        client, keeper, server = await pair()
        keeper.transport.pause_reading()
        pieces = [b"%d;" % number for number in range(200_000)]
        for piece in pieces:
            client.transport.write(piece)
        client.transport.writelines(pieces)
        keeper.transport.resume_reading()
        client.transport.close()
        await keeper.lost
        assert keeper.data == b"".join(pieces) * 2
        server.close()

    noria.run(main(), model=model)


def test_reset_while_paused_ends_the_connection_once_resumed(model):
    async def main() -> None:
        client, keeper, server = await pair()
        keeper.transport.pause_reading()
        client.transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"
        )
        client.transport.abort()
        await client.lost
        keeper.transport.resume_reading()
        error = await keeper.lost
        assert error is None or isinstance(error, ConnectionResetError)
        server.close()

    noria.run(main(), model=model)


@LONG
def test_no_wake_up_from_threads_is_lost(model):
    threads, calls = 8, count(5000, 125_000)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        count = 0
        done = loop.create_future()

        def called() -> None:
            nonlocal count
            count += 1
            if count == threads * calls:
                done.set_result(None)

        def call() -> None:
            for _ in range(calls):
                loop.call_soon_threadsafe(called)

        workers = [threading.Thread(target=call) for _ in range(threads)]
        for worker in workers:
            worker.start()
        await done
        for worker in workers:
            worker.join()

    noria.run(main(), model=model)


def test_a_sleeping_loop_is_woken_each_time(model):
    """One call at a time, each while the loop sleeps."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(300):
            future = loop.create_future()
            timer = threading.Thread(
                target=loop.call_soon_threadsafe, args=(future.set_result, None)
            )
            timer.start()
            await future
            timer.join()

    noria.run(main(), model=model)


def test_a_datagram_that_is_sent_between_close_and_connection_lost(model):
    """It is sent, and its error is reported, while the socket is open."""

    class Sender(asyncio.DatagramProtocol):
        def __init__(self) -> None:
            self.errors: list[Exception] = []
            self.lost: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def error_received(self, exc: Exception) -> None:
            self.errors.append(exc)
            self.transport.close()

        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def connection_lost(self, exc: Exception | None) -> None:
            self.lost.set_result(exc)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
            receiver.bind(("127.0.0.1", 0))
            receiver.setblocking(False)
            transport, sender = await loop.create_datagram_endpoint(
                Sender, local_addr=("127.0.0.1", 0)
            )
            too_long = bytes(70_000)
            transport.sendto(too_long, receiver.getsockname())
            transport.sendto(too_long, receiver.getsockname())
            transport.sendto(b"last", receiver.getsockname())
            assert await loop.sock_recv(receiver, 100) == b"last"
            assert await sender.lost is None
            assert len(sender.errors) == 2

    noria.run(main(), model=model)


def test_datagrams_to_a_closed_port_are_reported_and_the_socket_stays_open(model):
    class Reported(asyncio.DatagramProtocol):
        def __init__(self) -> None:
            self.errors: list[Exception] = []
            self.got: list[bytes] = []

        def error_received(self, exc: Exception) -> None:
            self.errors.append(exc)

        def datagram_received(self, data: bytes, addr: Any) -> None:
            self.got.append(data)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nobody:
            nobody.bind(("127.0.0.1", 0))
            address = nobody.getsockname()
        transport, protocol = await loop.create_datagram_endpoint(Reported, remote_addr=address)
        transport.sendto(b"hello?")
        await until(lambda: protocol.errors)
        assert isinstance(protocol.errors[0], ConnectionRefusedError)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as somebody:
            somebody.bind(address)
            somebody.sendto(b"here", transport.get_extra_info("sockname"))
            await until(lambda: protocol.got)
        assert protocol.got == [b"here"]
        transport.close()

    noria.run(main(), model=model)


def test_reader_of_a_reused_descriptor_is_called(model):
    """A descriptor is closed without remove_reader, and its number is reused."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(20):
            first, second = os.pipe()
            loop.add_reader(first, int)
            await asyncio.sleep(0)
            loop.remove_reader(first)
            os.close(first)
            os.close(second)
            again, other = os.pipe()
            assert again == first
            called = loop.create_future()
            loop.add_reader(again, lambda called=called: called.done() or called.set_result(None))
            os.write(other, b"x")
            await called
            loop.remove_reader(again)
            os.close(again)
            os.close(other)

    noria.run(main(), model=model)


def test_a_signal_right_before_the_wait_is_not_slept_over(model):
    """SIGINT from another process ends an idle loop."""
    code = f"""
import asyncio, noria
async def main():
    print("ready", flush=True)
    await asyncio.Event().wait()
try:
    noria.run(main(), model={model!r})
except KeyboardInterrupt:
    print("interrupted")
"""
    for _ in range(3):
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGINT)
        out, _ = child.communicate(timeout=20)
        assert out == "interrupted\n"


@pytest.mark.skipif(sys.version_info < (3, 13), reason="asyncio leaves the path before")
def test_the_path_of_a_unix_server_is_removed(model, tmp_path):
    path = tmp_path / "socket"

    async def main() -> None:
        server = await asyncio.get_running_loop().create_unix_server(asyncio.Protocol, path)
        assert path.exists()
        server.close()
        assert not path.exists()

    noria.run(main(), model=model)


def test_accept_without_descriptors_resumes_when_some_are_free(model):
    if model == "select":
        pytest.skip("select has its own limit of descriptors")
    code = f"""
import asyncio, resource, socket, noria
resource.setrlimit(resource.RLIMIT_NOFILE, (100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
async def main():
    loop = asyncio.get_running_loop()
    reports = []
    loop.set_exception_handler(lambda loop, context: reports.append(context["message"]))
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    waiting = [socket.socket() for _ in range(5)]
    hoard = []
    try:
        while True:
            hoard.append(open("/dev/null"))
    except OSError:
        pass
    waiting[0].connect(address)
    while not reports:
        await asyncio.sleep(0.01)
    assert "out of system resource" in reports[0], reports
    for file in hoard:
        file.close()
    waiting[1].connect(address)
    reader, writer = await asyncio.open_connection(*address)
    writer.close()
    await asyncio.sleep(1.2)
    print(len(reports))
    server.close()
    for sock in waiting:
        sock.close()
noria.run(main(), model={model!r})
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("1\n", 0), done.stderr


def test_calls_after_cancelled_ones_all_run(model):
    """The loop reuses handles that have no other reference."""

    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        got: list[int] = []
        for _ in range(100):
            loop.call_soon(got.append, -1).cancel()
            loop.call_later(1e-6, got.append, -1).cancel()
        await asyncio.sleep(0)
        for i in range(200):
            loop.call_soon(got.append, i)
            loop.call_later(0, got.append, i)
        await until(lambda: len(got) >= 400)
        return got

    assert sorted(noria.run(main(), model=model)) == sorted([*range(200)] * 2)


def test_calls_of_a_thread_run_in_its_context_and_change_no_other(model):
    name = contextvars.ContextVar("name", default="none")

    async def main() -> tuple[list[str], object]:
        loop = asyncio.get_running_loop()
        got: list[str] = []

        def look(then: str) -> None:
            got.append(name.get())
            name.set(then)

        def without() -> None:
            handles.extend(loop.call_soon_threadsafe(look, then) for then in ("first", "second"))

        def within() -> None:
            name.set("a thread's")
            loop.call_soon_threadsafe(look, "third")
            name.set("too late")

        handles: list[asyncio.Handle] = []
        name.set("the task's")
        for target in (without, within):
            thread = threading.Thread(target=target)
            thread.start()
            thread.join()
        await until(lambda: len(got) == 3)
        return got, name.get()

    assert noria.run(main(), model=model) == (["none", "none", "a thread's"], "the task's")


def test_handles_drop_their_references(model):
    """After it ran, was cancelled, raised, or its loop was closed."""

    class Holder:
        handle: object = None

        def nothing(self) -> None:
            pass

        def fail(self) -> None:
            raise ValueError

    loop = noria.new_event_loop(model)
    loop.set_exception_handler(lambda *_: None)
    gone = []

    def hold(call: Callable[[Callable[[], None]], Any], method: str = "nothing") -> Any:
        holder = Holder()
        gone.append(weakref.ref(holder))
        holder.handle = call(getattr(holder, method))
        return holder.handle

    hold(loop.call_soon)
    hold(loop.call_soon, "fail")
    hold(loop.call_soon).cancel()
    hold(partial(loop.call_later, 60)).cancel()
    hold(partial(loop.call_later, 0))
    hold(partial(loop.call_later, 0), "fail")
    loop.run_until_complete(asyncio.sleep(0.001))
    hold(loop.call_soon)
    hold(partial(loop.call_later, 60))
    loop.close()
    gc.collect()
    assert [ref() for ref in gone] == [None] * len(gone)


def test_timers_never_fire_early(model):
    """Callbacks that delay the loop before a timer is due do not delay the timer."""

    async def main() -> tuple[list[float], list[float]]:
        loop = asyncio.get_running_loop()
        late: list[float] = []
        delays = [0, 0.0004, 0.01, 1, 1.003, 1.003]
        order: list[float] = []

        def fire(due: float, number: int) -> None:
            late.append(loop.time() - due)
            order.append(number)

        loop.call_later(1, fire, 0, 0).cancel()
        timers = [
            loop.call_later(delay, fire, loop.time() + delay, number)
            for number, delay in enumerate(delays)
        ]
        loop.call_later(1, fire, 0, 0).cancel()
        assert timers[3].when() < timers[4].when()
        time.sleep(1.1)
        await until(lambda: len(late) == len(delays))
        return late, order

    late, order = noria.run(main(), model=model)
    assert min(late) >= 0
    assert max(late) < 1.1 + 1, late
    assert order == sorted(order)


def test_exception_in_a_callback_is_reported_and_the_rest_of_the_turn_runs(model):
    reports: list[dict[str, Any]] = []
    ran: list[int] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: reports.append(context))
        for number in range(5):
            loop.call_soon(ran.append, number)
            loop.call_soon(int, "no number")
        await asyncio.sleep(0.01)

    noria.run(main(), model=model)
    assert ran == list(range(5))
    assert len(reports) == 5
    assert all(isinstance(context["exception"], ValueError) for context in reports)
    assert "Exception in callback" in reports[0]["message"]


def test_debug_mode_reports_slow_callbacks(model, caplog):
    async def main() -> None:
        import time

        loop = asyncio.get_running_loop()
        loop.slow_callback_duration = 0.01
        loop.call_soon(time.sleep, 0.02)
        await asyncio.sleep(0.05)

    noria.run(main(), model=model, debug=True)
    assert "took 0.0" in caplog.text


def test_several_writes_of_a_turn_are_sent_together_complete_and_in_order(model: str) -> None:
    """Also if the last operation is close, abort, write_eof, or a write of another type."""

    async def main() -> None:
        client, keeper, server = await pair()
        transport = client.transport
        counters = asyncio.get_running_loop().model.stats  # type: ignore[attr-defined]
        expected = bytearray()
        middle, tail = bytearray(b"middle "), memoryview(b"tail;")

        def whole() -> bool:
            return keeper.data == expected

        for n in range(20):
            for part in (b"head %d " % n, middle, tail, b"", b"end;"):
                transport.write(part)
                expected.extend(part)
            transport.writelines([b"a", b"b"])
            expected.extend(b"ab")
            await until(whole)
            before = counters()["sends"]
            transport.write(b"one")
            transport.write(b"two")
            expected.extend(b"onetwo")
            await until(whole)
            # In the first turn the connection is not known to write several times.
            if n:
                assert counters()["sends"] == before + 1
            transport.write(b"x" * 100_000)
            transport.write(b"y")
            expected.extend(b"x" * 100_000 + b"y")
            assert transport.get_write_buffer_size() <= 100_001
            await until(whole)
        transport.write(b"last")
        transport.write(b"words")
        expected.extend(b"lastwords")
        transport.write_eof()
        await keeper.lost
        assert keeper.data == expected
        transport.close()
        await client.lost
        server.close()

        for end in ("close", "abort"):
            client, keeper, server = await pair()
            for _ in range(3):
                client.transport.write(b"head")
                client.transport.write(b"body")
                await until(lambda: len(keeper.data) % 8 == 0)  # noqa: B023
            client.transport.write(b"head")
            client.transport.write(b"body")
            getattr(client.transport, end)()
            await client.lost
            await keeper.lost
            assert keeper.data == b"headbody" * 4
            server.close()

    noria.run(main(), model=model)
