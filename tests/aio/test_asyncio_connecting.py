"""create_connection, create_server and the like: arguments, addresses, leaked resources."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import socket
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from noria.net.addresses import interleave, ip_address_info
from support.loops import MODELS, ORACLE, Keeper, client_context, run

TCP = (socket.SOCK_STREAM, socket.IPPROTO_TCP, "")


@pytest.fixture(params=(*MODELS, ORACLE))
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def free_port(host: str = "127.0.0.1") -> int:
    """A port on which no process listens."""
    with socket.socket() as sock:
        sock.bind((host, 0))
        port: int = sock.getsockname()[1]
        return port


def resolves_to(*addresses: tuple[str, int]) -> Callable[..., Any]:
    """A getaddrinfo that returns these IPv4 addresses."""

    async def getaddrinfo(*args: Any, **options: Any) -> list[Any]:
        return [(socket.AF_INET, *TCP, address) for address in addresses]

    return getaddrinfo


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


# Arguments.

BAD: dict[str, tuple[type[Exception], Callable[[Any, Any], Any]]] = {
    "nothing": (ValueError, lambda loop, sock: loop.create_connection(Keeper)),
    "host and sock": (
        ValueError,
        lambda loop, sock: loop.create_connection(Keeper, "127.0.0.1", 1, sock=sock),
    ),
    "datagram socket": (ValueError, lambda loop, sock: loop.create_connection(Keeper, sock=sock)),
    "name without ssl": (
        ValueError,
        lambda loop, sock: loop.create_connection(Keeper, "127.0.0.1", 1, server_hostname="x"),
    ),
    "ssl without name": (
        ValueError,
        lambda loop, sock: loop.create_connection(Keeper, sock=sock, ssl=client_context()),
    ),
    "timeout without ssl": (
        ValueError,
        lambda loop, sock: loop.create_connection(Keeper, "127.0.0.1", 1, ssl_handshake_timeout=1),
    ),
    "unix: nothing": (ValueError, lambda loop, sock: loop.create_unix_connection(Keeper)),
    "unix: path and sock": (
        ValueError,
        lambda loop, sock: loop.create_unix_connection(Keeper, "x", sock=sock),
    ),
    "unix: wrong socket": (
        ValueError,
        lambda loop, sock: loop.create_unix_connection(Keeper, sock=sock),
    ),
    "accepted: datagram socket": (
        ValueError,
        lambda loop, sock: loop.connect_accepted_socket(Keeper, sock),
    ),
    "server: nothing": (ValueError, lambda loop, sock: loop.create_server(Keeper)),
    "server: host and sock": (
        ValueError,
        lambda loop, sock: loop.create_server(Keeper, "127.0.0.1", 0, sock=sock),
    ),
    "server: datagram socket": (
        ValueError,
        lambda loop, sock: loop.create_server(Keeper, sock=sock),
    ),
    "server: ssl=True": (TypeError, lambda loop, sock: loop.create_server(Keeper, "", 0, ssl=True)),
    "server: timeout without ssl": (
        ValueError,
        lambda loop, sock: loop.create_server(Keeper, "", 0, ssl_shutdown_timeout=1),
    ),
    "unix server: nothing": (ValueError, lambda loop, sock: loop.create_unix_server(Keeper)),
    "unix server: wrong socket": (
        ValueError,
        lambda loop, sock: loop.create_unix_server(Keeper, sock=sock),
    ),
    "datagrams: nothing": (ValueError, lambda loop, sock: loop.create_datagram_endpoint(Keeper)),
    "datagrams: sock and more": (
        ValueError,
        lambda loop, sock: loop.create_datagram_endpoint(Keeper, ("127.0.0.1", 0), sock=sock),
    ),
    "datagrams: no pair": (
        TypeError,
        lambda loop, sock: loop.create_datagram_endpoint(Keeper, "127.0.0.1"),
    ),
    "datagrams: two families": (
        ValueError,
        lambda loop, sock: loop.create_datagram_endpoint(
            Keeper, local_addr=("::1", 0), remote_addr=("127.0.0.1", 9)
        ),
    ),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("model", ["auto", ORACLE])
def test_arguments_that_do_not_go_together_are_refused(case: str, model: str) -> None:
    async def main() -> None:
        error, call = BAD[case]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            with pytest.raises(error):
                await call(asyncio.get_running_loop(), sock)
            assert sock.fileno() >= 0

    run(main(), model)


# Addresses.


@pytest.mark.parametrize(
    "host", ["127.0.0.1", b"127.0.0.1", "::1", "localhost", "127.1", "1.2.3.4%2", ""]
)
@pytest.mark.parametrize("port", [80, "80", b"80", None, "http", ""])
def test_a_literal_address_resolves_as_by_getaddrinfo(host: Any, port: Any) -> None:
    """None means that getaddrinfo is called, so only other results are compared."""
    info = ip_address_info(host, port, 0, socket.SOCK_STREAM, 0)
    if info is None:
        assert host not in ("127.0.0.1", b"127.0.0.1", "::1") or port == "http"
    else:
        number = int(port or 0)
        name = host.decode() if isinstance(host, bytes) else host
        assert (
            info
            == socket.getaddrinfo(
                name, number, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
            )[0]
        )


def test_families_take_turns() -> None:
    def info(family: int, host: str) -> Any:
        return (family, *TCP, (host, 80))

    six = [info(socket.AF_INET6, f"::{i}") for i in range(1, 5)]
    four = [info(socket.AF_INET, f"127.0.0.{i}") for i in range(1, 3)]
    order = [entry[4][0] for entry in interleave([*six, *four], 1)]
    assert order == ["::1", "127.0.0.1", "::2", "127.0.0.2", "::3", "::4"]
    order = [entry[4][0] for entry in interleave([*six, *four], 3)]
    assert order == ["::1", "::2", "::3", "127.0.0.1", "::4", "127.0.0.2"]
    assert interleave(six, 1) == six


def test_a_host_that_comes_twice_is_bound_once(model: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        port = free_port()
        hosts = ["127.0.0.1", "127.0.0.2", "127.0.0.1"]
        server = await loop.create_server(Keeper, hosts, port)
        names = {sock.getsockname() for sock in server.sockets}
        assert len(server.sockets) == 2
        assert names == {("127.0.0.1", port), ("127.0.0.2", port)}
        server.close()
        await server.wait_closed()

    run(main(), model)


@pytest.mark.parametrize("delay", [None, 0.01, 10], ids=["in turn", "soon", "late"])
def test_the_next_address_is_tried(model: str, delay: float | None) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Keeper, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        loop.getaddrinfo = resolves_to(("127.0.0.1", free_port()), address)  # type: ignore
        transport, _ = await loop.create_connection(
            Keeper, "name.invalid", 80, happy_eyeballs_delay=delay
        )
        assert transport.get_extra_info("peername") == address
        transport.abort()
        server.close()
        await server.wait_closed()

    run(main(), model)


def test_an_attempt_that_hangs_is_overtaken_and_cancelled(model: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Keeper, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        hanging = ("127.0.0.1", free_port())
        loop.getaddrinfo = resolves_to(hanging, address)  # type: ignore
        connect, events = loop.sock_connect, []

        async def sock_connect(sock: Any, to: Any) -> None:
            if to != hanging:
                return await connect(sock, to)
            events.append("begun")
            try:
                await loop.create_future()
            finally:
                events.append("ended")

        loop.sock_connect = sock_connect  # type: ignore
        transport, _ = await loop.create_connection(
            Keeper, "name.invalid", 80, happy_eyeballs_delay=0.01
        )
        assert events == ["begun", "ended"]
        assert transport.get_extra_info("peername") == address
        transport.abort()
        server.close()
        await server.wait_closed()

    run(main(), model)


def test_a_connection_that_is_cancelled_leaves_no_socket(model: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.getaddrinfo = resolves_to(("127.0.0.1", 1), ("127.0.0.1", 2))  # type: ignore
        begun = asyncio.Event()
        count = 0

        async def sock_connect(sock: Any, to: Any) -> None:
            nonlocal count
            count += 1
            if count == 2:
                begun.set()
            await loop.create_future()

        loop.sock_connect = sock_connect  # type: ignore
        before = open_descriptors()
        task = asyncio.ensure_future(
            loop.create_connection(Keeper, "name.invalid", 80, happy_eyeballs_delay=0.01)
        )
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # asyncio's attempts may end a turn later.
        while open_descriptors() != before:
            assert model == ORACLE
            await asyncio.sleep(0)
        if model != ORACLE:
            assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main(), model)


@pytest.mark.parametrize("delay", [None, 0.01], ids=["in turn", "staggered"])
def test_the_error_names_each_address(model: str, delay: float | None) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        one, two = ("127.0.0.1", free_port()), ("127.0.0.2", free_port("127.0.0.2"))
        loop.getaddrinfo = resolves_to(one, two)  # type: ignore
        before = open_descriptors()
        with pytest.raises(OSError, match="Multiple exceptions") as caught:
            await loop.create_connection(Keeper, "name.invalid", 80, happy_eyeballs_delay=delay)
        assert str(one[1]) in str(caught.value)
        assert str(two[1]) in str(caught.value)
        loop.getaddrinfo = resolves_to(one)  # type: ignore
        with pytest.raises(ConnectionRefusedError):
            await loop.create_connection(Keeper, "name.invalid", 80, happy_eyeballs_delay=delay)
        assert open_descriptors() == before

    run(main(), model)


@pytest.mark.parametrize("model", MODELS)
def test_all_errors_are_a_group(model: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        addresses = ("127.0.0.1", free_port()), ("127.0.0.1", free_port())
        loop.getaddrinfo = resolves_to(*addresses)  # type: ignore
        with pytest.raises(ExceptionGroup) as caught:
            await loop.create_connection(Keeper, "name.invalid", 80, all_errors=True)  # type: ignore
        assert [type(error) for error in caught.value.exceptions] == [ConnectionRefusedError] * 2

    run(main(), model)


def test_a_name_without_addresses_is_an_error(model: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.getaddrinfo = resolves_to()  # type: ignore
        with pytest.raises(OSError, match="empty list"):
            await loop.create_connection(Keeper, "name.invalid", 80)
        with pytest.raises(OSError, match="empty list"):
            await loop.create_server(Keeper, "name.invalid", 80)

    run(main(), model)


def test_a_local_address_is_bound(model: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Keeper, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        transport, _ = await loop.create_connection(Keeper, host, port, local_addr=("127.0.0.5", 0))
        assert transport.get_extra_info("sockname")[0] == "127.0.0.5"
        transport.abort()
        before = open_descriptors()
        with pytest.raises(OSError, match="no matching local address"):
            await loop.create_connection(Keeper, host, port, local_addr=("::1", 0))
        with pytest.raises(OSError, match="bind on address") as caught:
            await loop.create_connection(Keeper, host, port, local_addr=(host, port))
        assert caught.value.errno == errno.EADDRINUSE
        assert open_descriptors() == before
        server.close()
        await server.wait_closed()

    run(main(), model)


@pytest.mark.parametrize("model", MODELS)
def test_a_protocol_that_cannot_be_made_leaves_no_socket(model: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Keeper, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        before = open_descriptors()
        with pytest.raises(ZeroDivisionError):
            await loop.create_connection(lambda: 1 / 0, *address)  # type: ignore
        with pytest.raises(ZeroDivisionError):
            await loop.create_datagram_endpoint(lambda: 1 / 0, ("127.0.0.1", 0))  # type: ignore
        for _ in range(10):
            await asyncio.sleep(0)
        server.close()
        # The accepted connection ends with its client; the listening socket is closed.
        while open_descriptors() >= before:
            await asyncio.sleep(0)

    run(main(), model)


# Servers.


async def one_client(server: asyncio.Server) -> tuple[Any, Keeper, Keeper]:
    """(transport, its protocol, the server's protocol) of a new client."""
    loop = asyncio.get_running_loop()
    transport, client = await loop.create_connection(Keeper, *server.sockets[0].getsockname())
    return transport, client, Keeper()


@pytest.mark.parametrize("how", ["close_clients", "abort_clients"])
@pytest.mark.parametrize("model", MODELS if sys.version_info < (3, 13) else (*MODELS, ORACLE))
def test_a_server_closes_its_clients(model: str, how: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Keeper, "127.0.0.1", 0)
        clients = [await one_client(server) for _ in range(3)]
        for transport, _, _ in clients:
            transport.write(b"x")
        server.close()
        getattr(server, how)()
        for _, client, _ in clients:
            await client.lost
        await server.wait_closed()
        assert server.sockets == ()
        assert not server.is_serving()

    run(main(), model)


@pytest.mark.parametrize("model", MODELS if sys.version_info < (3, 12) else (*MODELS, ORACLE))
def test_wait_closed_waits_for_clients(model: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Keeper, "127.0.0.1", 0)
        transport, client, _ = await one_client(server)
        waiting = asyncio.ensure_future(server.wait_closed())
        await asyncio.sleep(0)
        server.close()
        for _ in range(3):
            await asyncio.sleep(0)
        if sys.version_info >= (3, 12):
            assert not waiting.done()
        transport.close()
        await client.lost
        await waiting
        await server.wait_closed()

    run(main(), model)


def test_serve_forever_ends_with_its_task(model: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Keeper, "127.0.0.1", 0, start_serving=False)
        assert not server.is_serving()
        task = asyncio.ensure_future(server.serve_forever())
        await asyncio.sleep(0)
        assert server.is_serving()
        with pytest.raises(RuntimeError, match="already being awaited"):
            await server.serve_forever()
        transport, client, _ = await one_client(server)
        transport.close()
        await client.lost
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert server.sockets == ()
        server.close()
        with pytest.raises(RuntimeError, match="is closed"):
            await server.serve_forever()
        await server.wait_closed()

    run(main(), model)


def test_a_server_that_never_started_closes_its_socket(model: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        before = open_descriptors()
        server = await loop.create_server(Keeper, "127.0.0.1", 0, start_serving=False)
        assert open_descriptors() > before
        server.close()
        await server.wait_closed()
        assert open_descriptors() == before

    run(main(), model)


# Unix sockets.


def test_a_stale_unix_socket_is_replaced(model: str, tmp_path: Path) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        path = tmp_path / "socket"
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(path))
        server = await loop.create_unix_server(Keeper, path)
        transport, client = await loop.create_unix_connection(Keeper, path)
        transport.abort()
        await client.lost
        server.close()
        await server.wait_closed()

    run(main(), model)


@pytest.mark.parametrize("model", MODELS)  # asyncio's own leaves its socket open
def test_an_empty_path_is_refused(model: str) -> None:
    async def main() -> None:
        with pytest.raises(IndexError):
            await asyncio.get_running_loop().create_unix_server(Keeper, "")

    run(main(), model)


def test_a_file_at_the_path_stays(model: str, tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "file"
        path.write_text("kept")
        with pytest.raises(OSError, match="already in use") as caught:
            await asyncio.get_running_loop().create_unix_server(Keeper, path)
        assert caught.value.errno == errno.EADDRINUSE
        assert path.read_text() == "kept"

    run(main(), model)


@pytest.mark.parametrize("model", MODELS if sys.version_info < (3, 13) else (*MODELS, ORACLE))
def test_the_path_is_removed_at_close_if_it_is_still_the_servers(
    model: str, tmp_path: Path
) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        ours, replaced, kept = tmp_path / "ours", tmp_path / "replaced", tmp_path / "kept"
        servers = [
            await loop.create_unix_server(Keeper, path, cleanup_socket=path is not kept)
            for path in (ours, replaced, kept)
        ]
        other = tmp_path / "other"
        other.write_text("another's")
        other.replace(replaced)
        for server in servers:
            server.close()
        assert not ours.exists()
        assert replaced.read_text() == "another's"
        assert kept.exists()

    run(main(), model)


def test_the_path_is_removed_as_on_this_python(model: str, tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "socket"
        server = await asyncio.get_running_loop().create_unix_server(Keeper, path)
        server.close()
        assert path.exists() == (sys.version_info < (3, 13))

    run(main(), model)


# sock_*.


def test_a_socket_that_must_not_block_is_named_in_debug_mode(model: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        with socket.socket() as sock:
            sock.settimeout(5)
            for call in (
                loop.sock_recv(sock, 1),
                loop.sock_recv_into(sock, bytearray(1)),
                loop.sock_sendall(sock, b"x"),
                loop.sock_connect(sock, ("127.0.0.1", 1)),
                loop.sock_accept(sock),
            ):
                with pytest.raises(ValueError, match="must be non-blocking"):
                    await call

    run(main(), model)


def test_a_subclass_of_socket_and_unusual_buffers(model: str) -> None:
    """Arguments that the compiled sock_recv and sock_sendall pass on to Python code."""

    class Socket(socket.socket):
        pass

    async def main() -> None:
        loop = asyncio.get_running_loop()
        plain, peer = socket.socketpair()
        with Socket(fileno=plain.detach()) as sock, peer:
            sock.setblocking(False)
            peer.setblocking(False)
            received = asyncio.ensure_future(loop.sock_recv(sock, 10))
            await asyncio.sleep(0)
            await loop.sock_sendall(peer, bytearray(b"ace"))
            assert await received == b"ace"
            with pytest.raises(BufferError):
                await loop.sock_sendall(peer, memoryview(b"abcdef")[::2])
            # asyncio counts items as bytes, and never returns.
            items = "B" if model == ORACLE else "I"
            view = memoryview(bytearray(range(200)) * 4096).cast(items)
            sending = asyncio.ensure_future(loop.sock_sendall(sock, view))
            total = bytearray()
            buffer = bytearray(65536)
            while len(total) < view.nbytes:
                n = await loop.sock_recv_into(peer, buffer)
                total += buffer[:n]
            await sending
            assert total == view.cast("B")
            await loop.sock_sendall(sock, b"")

    run(main(), model)


def test_a_cancelled_receive_watches_nothing(model: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        one, two = socket.socketpair()
        with one, two:
            one.setblocking(False)
            task = asyncio.ensure_future(loop.sock_recv_into(one, bytearray(5)))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert loop.remove_reader(one) is False
            two.send(b"kept")
            assert await loop.sock_recv(one, 10) == b"kept"

    run(main(), model)


# Found in code review.


@pytest.mark.parametrize("delay", [None, 0.01], ids=["in turn", "staggered"])
@pytest.mark.parametrize("local", [None, ("127.0.0.1", 0)], ids=["", "local"])
@pytest.mark.parametrize("model", MODELS)
def test_a_refused_connection_leaves_no_cycle(model: str, delay: float | None, local: Any) -> None:
    class Refused(OSError):
        pass

    async def main() -> None:
        loop = asyncio.get_running_loop()
        references = []

        async def sock_connect(sock: Any, to: Any) -> None:
            error = Refused("no")
            references.append(weakref.ref(error))
            try:
                raise error
            finally:
                del error

        loop.sock_connect = sock_connect  # type: ignore
        loop.getaddrinfo = resolves_to(("127.0.0.1", 1))  # type: ignore
        gc.disable()
        try:
            with contextlib.suppress(Refused):
                await loop.create_connection(
                    Keeper, "name.invalid", 80, happy_eyeballs_delay=delay, local_addr=local
                )
            await asyncio.sleep(0)
            assert [reference() for reference in references] == [None]
        finally:
            gc.enable()

    run(main(), model)


def test_errors_are_in_the_order_of_the_addresses(model: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.getaddrinfo = resolves_to(("127.0.0.1", 1), ("127.0.0.1", 2))  # type: ignore
        second = asyncio.Event()

        async def sock_connect(sock: Any, to: Any) -> None:
            if to[1] == 1:
                await second.wait()
            second.set()
            raise OSError(f"error {to[1]}")

        loop.sock_connect = sock_connect  # type: ignore
        with pytest.raises(OSError, match="error 1, error 2"):
            await loop.create_connection(Keeper, "name.invalid", 80, happy_eyeballs_delay=0.001)

    run(main(), model)


def test_an_attempt_that_raises_another_exception_does_not_end_the_others(model: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Keeper, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        loop.getaddrinfo = resolves_to(("127.0.0.1", 1), address)  # type: ignore
        connect = loop.sock_connect

        async def sock_connect(sock: Any, to: Any) -> None:
            if to[1] == 1:
                raise ZeroDivisionError
            await connect(sock, to)

        loop.sock_connect = sock_connect  # type: ignore
        transport, _ = await loop.create_connection(
            Keeper, "name.invalid", 80, happy_eyeballs_delay=0.001
        )
        assert transport.get_extra_info("peername") == address
        transport.abort()
        server.close()
        await server.wait_closed()

    run(main(), model)


@pytest.mark.parametrize("model", MODELS)
def test_cancelled_twice_while_attempts_end(model: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.getaddrinfo = resolves_to(("127.0.0.1", 1), ("127.0.0.1", 2))  # type: ignore
        begun, ending, release = asyncio.Semaphore(0), asyncio.Semaphore(0), asyncio.Event()

        async def sock_connect(sock: Any, to: Any) -> None:
            begun.release()
            try:
                await loop.create_future()
            finally:
                ending.release()
                await release.wait()

        loop.sock_connect = sock_connect  # type: ignore
        before = open_descriptors()
        task = asyncio.ensure_future(
            loop.create_connection(Keeper, "name.invalid", 80, happy_eyeballs_delay=0.001)
        )
        for _ in range(2):
            await begun.acquire()
        task.cancel()
        for _ in range(2):
            await ending.acquire()
        task.cancel()
        await asyncio.sleep(0)
        release.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert open_descriptors() == before
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main(), model)


def test_an_address_that_the_machine_does_not_have(model: str) -> None:
    """192.0.2.0/24 is reserved for documentation (RFC 5737)."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        hosts = ["127.0.0.1", "192.0.2.1"]
        if sys.version_info < (3, 13):
            with pytest.raises(OSError, match=r"192\.0\.2\.1") as caught:
                await loop.create_server(Keeper, hosts, 0)
            assert caught.value.errno == errno.EADDRNOTAVAIL
            return
        server = await loop.create_server(Keeper, hosts, 0)
        assert [sock.getsockname()[0] for sock in server.sockets] == ["127.0.0.1"]
        server.close()
        with pytest.raises(OSError, match="could not bind on any address"):
            await loop.create_server(Keeper, hosts[1], 0)
        await server.wait_closed()

    run(main(), model)


def test_start_tls_after_the_end_of_the_peers_data_fails(model: str) -> None:
    class Patient(Keeper):
        def eof_received(self) -> bool:
            self.eof = True
            return True

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            transport, client = await loop.create_connection(Patient, *listener.getsockname())
            peer, _ = listener.accept()
            with peer:
                peer.shutdown(socket.SHUT_WR)
                while not client.eof:
                    await asyncio.sleep(0)
                with pytest.raises(ConnectionError):
                    await loop.start_tls(
                        transport, client, client_context(), server_hostname="localhost"
                    )

    run(main(), model)


def test_a_loop_that_runs_is_not_closed(model: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Keeper, "127.0.0.1", 0)
        with pytest.raises(RuntimeError, match="running"):
            loop.close()
        transport, client, _ = await one_client(server)
        transport.abort()
        await client.lost
        server.close()
        await server.wait_closed()

    run(main(), model)


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_a_servers_socket_outlives_its_loop(model: str, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    servers = []

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        servers.append(await loop.create_unix_server(Keeper, path))

    run(main(), model)
    assert servers[0].sockets[0].fileno() >= 0
    servers[0].close()
    assert path.exists() == (sys.version_info < (3, 13))


@pytest.mark.parametrize("model", MODELS)
def test_a_transports_socket_is_not_for_sock_methods(model: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        one, two = socket.socketpair()
        with two:
            one.setblocking(False)
            transport, client = await loop.create_connection(Keeper, sock=one)
            for call in (
                loop.sock_recv_into(one, bytearray(1)),
                loop.sock_recvfrom(one, 1),
                loop.sock_recvfrom_into(one, bytearray(1)),
                loop.sock_sendto(one, b"x", ""),
                loop.sock_sendall(one, bytearray(b"x")),
            ):
                with pytest.raises(RuntimeError, match="used by transport"):
                    await call
            with pytest.raises(RuntimeError, match="used by transport"):
                await loop.create_connection(Keeper, sock=one)
            assert one.fileno() >= 0
            transport.abort()
            await client.lost

    run(main(), model)


def test_the_descriptor_of_a_socket_with_its_own_recv_is_the_transports(model: str) -> None:
    class Socket(socket.socket):
        def recv(self, *args: Any) -> bytes:
            return super().recv(*args)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        one, two = socket.socketpair()
        with two:
            sock = Socket(fileno=one.detach())
            sock.setblocking(False)
            transport, client = await loop.create_connection(Keeper, sock=sock)
            for call in (lambda: loop.add_reader(sock, print), lambda: loop.remove_writer(sock)):
                with pytest.raises(RuntimeError, match="used by transport"):
                    call()
            transport.abort()
            await client.lost

    run(main(), model)


def test_a_closed_server_does_not_start(model: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Keeper, "127.0.0.1", 0, start_serving=False)
        server.close()
        with pytest.raises((RuntimeError, TypeError)):
            await server.start_serving()
        await server.wait_closed()

    run(main(), model)
