"""add_reader and add_writer of descriptors that are closed, reused, or cannot be watched."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import warnings
from pathlib import Path
from typing import Any

import pytest

import noria
from support.loops import MODELS, ORACLE, Keeper, run, until

# models whose kernel drops a closed descriptor
KERNEL = ("epoll", "epoll-edge", "io_uring")

ADDS = pytest.mark.parametrize("method", ["add_reader", "add_writer"])


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def counters() -> dict[str, int]:
    loop: Any = asyncio.get_running_loop()
    return dict(loop.model.stats())


async def is_idle() -> bool:
    """Whether the loop sleeps while nothing happens, and does not poll continuously."""
    for _ in range(5):
        before = counters()
        await asyncio.sleep(0.1)
        after = counters()
        if after["waits"] - before["waits"] <= 5:
            return True
    return False


def watch(sock: Any) -> asyncio.Event:
    """Adds a reader that sets an event and receives."""
    event = asyncio.Event()
    sock.setblocking(False)

    def readable() -> None:
        event.set()
        sock.recv(100)

    asyncio.get_running_loop().add_reader(sock, readable)
    return event


class Reports:
    """The loop's exception handler: stores the reports."""

    def __init__(self) -> None:
        self.contexts: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(self)

    def __call__(self, _: Any, context: dict[str, Any]) -> None:
        self.contexts.append(context)

    def errors(self) -> list[int | None]:
        return [getattr(context.get("exception"), "errno", None) for context in self.contexts]


@ADDS
@pytest.mark.parametrize("name", [*MODELS, ORACLE])
def test_a_closed_descriptor_is_refused(name: str, method: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        fd = os.open("/", os.O_RDONLY)
        os.close(fd)
        with pytest.raises(OSError, match="Bad file descriptor"):
            getattr(loop, method)(fd, int)
        assert not loop.remove_reader(fd)
        assert not loop.remove_writer(fd)

    run(main(), name)


@ADDS
@pytest.mark.parametrize("name", [*KERNEL, ORACLE])
def test_a_regular_file_is_refused(name: str, method: str, tmp_path: Path) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with (tmp_path / "file").open("wb") as file:
            with pytest.raises(PermissionError):
                getattr(loop, method)(file, int)
            assert not loop.remove_reader(file)
            assert not loop.remove_writer(file)

    run(main(), name)


@pytest.mark.parametrize("name", ["select", "poll"])
def test_a_regular_file_is_always_ready_where_the_kernel_watches_it(
    name: str, tmp_path: Path
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with (tmp_path / "file").open("wb") as file:
            called = asyncio.Event()
            loop.add_reader(file, called.set)
            await called.wait()
            assert loop.remove_reader(file)

    run(main(), name)


@pytest.mark.parametrize("name", [*MODELS, ORACLE])
def test_a_closed_object_is_found_by_remove(name: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        here, there = socket.socketpair()
        with there:
            loop.add_reader(here, int)
            here.close()
            assert loop.remove_reader(here)
            with pytest.raises(ValueError, match="-1"):
                loop.remove_reader(here)
            with pytest.raises(ValueError, match="-1"):
                loop.remove_writer(here)
            with pytest.raises(ValueError, match="-1"):
                loop.add_reader(here, int)

    run(main(), name)


@pytest.mark.parametrize("name", [*MODELS, ORACLE])
def test_what_has_no_descriptor_is_refused(name: str) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        for method in (loop.remove_reader, loop.remove_writer):
            with pytest.raises(ValueError, match="Invalid file object"):
                method(object())

    run(main(), name)


def test_a_closed_object_with_a_reader_and_a_writer_is_removed(model: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        here, there = socket.socketpair()
        with there:
            loop.add_writer(here, int)
            loop.add_reader(here, int)
            here.close()
            assert loop.remove_reader(here)
            assert loop.remove_writer(here)
            assert await is_idle()

    run(main(), model)


def test_the_peer_of_a_watched_socket_that_is_closed_sees_the_end_at_once(model: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        Reports()
        for method in (loop.add_reader, loop.add_writer):
            here, there = socket.socketpair()
            with there:
                method(here, int)
                # By then the kernel has the registration.
                await asyncio.sleep(0.01)
                here.close()
                there.setblocking(False)
                assert there.recv(1) == b""
                assert await is_idle()

    run(main(), model)


def test_the_peer_of_a_watcher_that_is_closed_sees_the_end_at_once(model: str) -> None:
    with noria.Reactor(model) as reactor:
        here, there = socket.socketpair()
        with here, there:
            reactor.register(here, noria.READ, lambda sock, _: sock.recv(1))
            reactor.run_once(0)
            here.close()
            there.setblocking(False)
            assert there.recv(1) == b""


def test_a_selector_whose_socket_is_closed_keeps_working(model: str) -> None:
    with noria.selector(model) as selector:
        here, there = socket.socketpair()
        more, other = socket.socketpair()
        with here, there, more, other:
            selector.register(here, noria.READ)
            selector.register(more, noria.READ)
            assert selector.select(0) == []
            here.close()
            assert there.recv(1) == b""
            other.send(b"x")
            ready = []
            while not any(key.fileobj is more for key, _ in ready):
                ready += selector.select(10)
            selector.unregister(here)
            selector.unregister(more)


@pytest.mark.parametrize("mode", ["add_reader", "add_writer"])
def test_a_watched_descriptor_that_is_closed_does_not_end_the_loop(model: str, mode: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        reports = Reports()
        here, there = socket.socketpair()
        other, peer = socket.socketpair()
        with there, other, peer:
            here.setblocking(False)
            while mode == "add_writer":
                try:
                    here.send(bytes(100_000))
                except BlockingIOError:
                    break
            calls: list[str] = []
            getattr(loop, mode)(here, calls.append, "former")
            heard = watch(other)
            await asyncio.sleep(0.01)
            here.close()
            peer.send(b"x")
            await heard.wait()
            assert await is_idle()
            if model in KERNEL:
                assert not calls
                assert not reports.contexts
                assert getattr(loop, mode.replace("add", "remove"))(here)
            else:
                # Each callback is called once, and its own system call fails.
                assert calls == ["former"]
                assert reports.errors() == [9]
            loop.remove_reader(other)

    run(main(), model)


def test_sock_recv_of_a_socket_that_is_closed_does_not_end_the_loop(model: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        here, there = socket.socketpair()
        with there:
            here.setblocking(False)
            receiving = asyncio.create_task(loop.sock_recv(here, 10))
            await asyncio.sleep(0.01)
            here.close()
            assert there.recv(1) == b""
            assert await is_idle()
            if model not in KERNEL:
                with pytest.raises(OSError, match="Bad file descriptor"):
                    await receiving
            receiving.cancel()
            await asyncio.wait([receiving])

    run(main(), model)


def test_a_transport_whose_descriptor_is_closed_does_not_end_the_loop(model: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        here, there = socket.socketpair()
        other, peer = socket.socketpair()
        with there, peer:
            _, keeper = await loop.create_connection(Keeper, sock=here)
            _, alive = await loop.create_connection(Keeper, sock=other)
            await asyncio.sleep(0.01)
            here.close()
            peer.send(b"x")
            await until(lambda: alive.data == b"x")
            assert await is_idle()
            keeper.transport.abort()
            await keeper.lost
            alive.transport.close()
            await alive.lost

    run(main(), model)


def test_a_server_whose_socket_is_closed_does_not_end_the_loop(model: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        reports = Reports()
        server = await loop.create_server(Keeper, "127.0.0.1", 0)
        sock: Any = server.sockets[0]
        await asyncio.sleep(0.01)
        sock._sock.close()
        assert await is_idle()
        assert all(number == 9 for number in reports.errors())
        server.close()

    run(main(), model)


def test_a_datagram_socket_that_is_closed_does_not_end_the_loop(model: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        errors: list[int | None] = []

        class Protocol(asyncio.DatagramProtocol):
            def error_received(self, exc: Exception) -> None:
                errors.append(getattr(exc, "errno", None))

        transport, _ = await loop.create_datagram_endpoint(Protocol, ("127.0.0.1", 0))
        address = transport.get_extra_info("sockname")
        await asyncio.sleep(0.01)
        transport.get_extra_info("socket")._sock.close()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"for nobody", address)
        assert await is_idle()
        assert errors in ([], [9])
        transport.abort()
        await asyncio.sleep(0.01)

    run(main(), model)


def test_a_datagram_socket_that_is_dropped_after_the_loop_is_closed(model: str) -> None:
    loop = noria.new_event_loop(model)
    endpoint = loop.create_datagram_endpoint(asyncio.DatagramProtocol, ("127.0.0.1", 0))
    transport, _ = loop.run_until_complete(endpoint)
    fd = transport.get_extra_info("socket").fileno()
    loop.close()
    # The collector finalizes the transport and its socket in any order: the socket may warn, too.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del transport, endpoint
        gc.collect()
    assert any("unclosed transport" in str(each.message) for each in caught)
    assert not loop.remove_reader(fd)


async def reuse(former: socket.socket) -> tuple[socket.socket, socket.socket]:
    """Close it, and open another socket with its number."""
    number = former.fileno()
    former.close()
    here, there = socket.socketpair()
    if there.fileno() == number:
        here, there = there, here
    assert here.fileno() == number
    return here, there


@pytest.mark.parametrize("first", ["add_reader", "add_writer", "both"])
@pytest.mark.parametrize("slept", [False, True])
def test_a_number_that_is_reused_and_watched_again_is_its_new_owners(
    model: str, first: str, slept: bool
) -> None:
    """As libpq does: close without remove_reader, then reuse the number."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        Reports()
        here, there = socket.socketpair()
        calls: list[str] = []
        here.setblocking(False)
        try:
            while True:
                here.send(bytes(100_000))
        except BlockingIOError:
            pass
        with there:
            if first != "add_writer":
                loop.add_reader(here.fileno(), calls.append, "former reader")
            if first != "add_reader":
                loop.add_writer(here.fileno(), calls.append, "former writer")
            await asyncio.sleep(0.01)
            assert not calls
            again, other = await reuse(here)
            with again, other:
                if slept and model in KERNEL:
                    # The former registration is removed: another file cannot trigger it.
                    other.send(b"x")
                    assert await is_idle()
                    assert not calls
                    again.recv(1)
                heard, room = asyncio.Event(), asyncio.Event()
                if first == "add_writer":
                    heard.set()
                else:
                    heard = watch(again)
                    other.send(b"y")
                if first == "add_reader":
                    room.set()
                else:

                    def writable() -> None:
                        room.set()
                        loop.remove_writer(again.fileno())

                    loop.add_writer(again.fileno(), writable)
                await heard.wait()
                await room.wait()
                assert not calls
                assert await is_idle()
                loop.remove_reader(again.fileno())
                assert not loop.remove_writer(again.fileno())
                assert await is_idle()

    run(main(), model)


def test_a_writer_of_a_former_file_is_not_called_for_the_new_one(model: str) -> None:
    """Only a reader is added for the reused number."""
    if model not in KERNEL:
        pytest.skip("select and poll know numbers only, not files")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        here, there = socket.socketpair()
        calls: list[str] = []
        here.setblocking(False)
        try:
            while True:
                here.send(bytes(100_000))
        except BlockingIOError:
            pass
        with there:
            loop.add_writer(here.fileno(), calls.append, "former writer")
            await asyncio.sleep(0.01)
            again, other = await reuse(here)
            with again, other:
                heard = watch(again)
                other.send(b"x")
                await heard.wait()
                assert await is_idle()
                assert not calls
                loop.remove_reader(again.fileno())
                loop.remove_writer(again.fileno())

    run(main(), model)


def test_a_duplicate_of_a_former_file_calls_no_callback_and_the_loop_sleeps(model: str) -> None:
    """A child process or a duplicate keeps open the file that was watched and closed here."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        Reports()
        more, peer = socket.socketpair()
        here, there = socket.socketpair()
        calls: list[str] = []
        with there, more, peer:
            elsewhere = watch(more)
            loop.add_reader(here.fileno(), calls.append, "former")
            await asyncio.sleep(0.01)
            with here.dup() as twin:
                again, other = await reuse(here)
                with again, other:
                    heard = watch(again)
                    there.send(b"for the duplicate")
                    assert await is_idle()
                    assert not heard.is_set()
                    # The other callbacks are still called.
                    peer.send(b"x")
                    other.send(b"y")
                    await elsewhere.wait()
                    await heard.wait()
                    assert await is_idle()
                    assert not calls
                    assert twin.recv(100) == b"for the duplicate"
                    loop.remove_reader(again)
            loop.remove_reader(more)

    run(main(), model)


@pytest.mark.parametrize("keep", [False, True], ids=["closed", "kept open by a duplicate"])
def test_a_removed_reader_is_not_called_while_a_duplicate_keeps_the_file_open(
    model: str, keep: bool
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        here, there = socket.socketpair()
        calls: list[str] = []
        with there:
            loop.add_reader(here, calls.append, "called")
            await asyncio.sleep(0.01)
            twin = here.dup() if keep else None
            assert loop.remove_reader(here)
            here.close()
            if twin is not None:
                there.send(b"x")
            assert await is_idle()
            assert not calls
            if twin is not None:
                twin.close()

    run(main(), model)


def test_readers_are_level_triggered(model: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        here, there = socket.socketpair()
        with here, there:
            there.send(b"abc")
            got: list[bytes] = []
            loop.add_reader(here, lambda: got.append(here.recv(1)))
            await until(lambda: len(got) == 3)
            assert await is_idle()
            there.send(b"d")
            await until(lambda: len(got) == 4)
            assert loop.remove_reader(here)

    run(main(), model)


def test_many_ready_descriptors_are_each_called_once_a_turn(model: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        pairs = [socket.socketpair() for _ in range(50)]
        calls = [0] * len(pairs)

        def call(i: int) -> None:
            calls[i] += 1
            pairs[i][0].recv(1)

        for i, (here, there) in enumerate(pairs):
            here.setblocking(False)
            loop.add_reader(here, call, i)
            there.send(b"x")
        await until(lambda: all(calls))
        assert await is_idle()
        # No callback was called without data to receive.
        assert calls == [1] * len(pairs)
        for here, there in pairs:
            loop.remove_reader(here)
            here.close()
            there.close()

    run(main(), model)


def test_many_sock_recv_in_a_row_share_a_registration(model: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        here, there = socket.socketpair()
        here.setblocking(False)
        there.setblocking(False)
        with here, there:
            for i in range(100):
                receiving = asyncio.create_task(loop.sock_recv(here, 10))
                await asyncio.sleep(0)
                await loop.sock_sendall(there, b"%d" % i)
                assert await receiving == b"%d" % i
            assert await is_idle()
            there.send(b"for nobody")
            assert await is_idle()

    run(main(), model)


def test_another_file_with_a_former_number_is_not_watched_in_its_place(model: str) -> None:
    """Also if an event of a duplicate makes the loop register all descriptors again."""
    if model in ("select", "poll"):
        pytest.skip("select and poll know numbers only, not files")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        Reports()
        calls: list[str] = []
        former, peer = socket.socketpair()
        number = former.fileno()
        loop.add_reader(number, calls.append, "former")
        here, there = socket.socketpair()
        loop.add_reader(here.fileno(), calls.append, "gone")
        await asyncio.sleep(0)
        with peer, there, here.dup():
            stranger, other = await reuse(former)
            again, _other = await reuse(here)
            with stranger, other, again, _other:
                other.send(b"for nobody")
                # Its number belonged to a file that the duplicate keeps open.
                watch(again)
                there.send(b"for the duplicate")
                assert await is_idle()
                assert not calls
                loop.remove_reader(again)
        loop.remove_reader(number)

    run(main(), model)
