"""An endpoint: one end of a connection that acts at random and checks its callbacks."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
from collections.abc import Callable
from typing import Any

from support.fuzz.harness import Violations, some_bytes, start_eagerly
from support.loops import ORACLE

SIZES = (0, 1, 2, 50, 1000, 5000, 17_000, 70_000, 150_000)
BUFFERS = (1, 10, 1000, 4096, 20_000, 100_000)  # bytes that get_buffer offers
MOST_SENT = 400_000  # bytes that one endpoint sends at random


class Callbacks:
    """Base of both protocol kinds: passes every callback to the endpoint."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint

    def connection_made(self, transport: Any) -> None:
        self.endpoint.connection_made(self, transport)

    def eof_received(self) -> bool:
        return self.endpoint.eof_received(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.endpoint.connection_lost(self, exc)

    def pause_writing(self) -> None:
        self.endpoint.pause_writing(self)

    def resume_writing(self) -> None:
        self.endpoint.resume_writing(self)


class Plain(Callbacks, asyncio.Protocol):
    def data_received(self, data: bytes) -> None:
        self.endpoint.received_bytes(self, data)


class Buffered(Callbacks, asyncio.BufferedProtocol):
    def get_buffer(self, sizehint: int) -> bytearray | memoryview:
        endpoint = self.endpoint
        self.buffer = bytearray(endpoint.rng.choice(BUFFERS))
        # asyncio's SSLProtocol loses what it reads into a slice of a bytearray.
        viewed = endpoint.rng.random() < 0.5 or endpoint.model == ORACLE
        return memoryview(self.buffer) if viewed else self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        endpoint = self.endpoint
        endpoint.check(0 < nbytes <= len(self.buffer), f"buffer_updated({nbytes})")
        endpoint.received_bytes(self, bytes(memoryview(self.buffer)[:nbytes]))


class Endpoint:
    """Sends, pauses, swaps protocols and ends at random; `peer` is the other end.

    `may_end`: whether it may close, abort or end its sending in the middle.
    """

    peer: Endpoint
    transport: Any = None

    def __init__(
        self,
        name: str,
        rng: random.Random,
        violations: Violations,
        model: str,
        *,
        tls: bool = False,
        may_end: bool = False,
    ) -> None:
        self.name, self.model, self.tls, self.may_end = name, model, tls, may_end
        self.rng = random.Random(rng.random())
        self.violations = violations
        self.calls: list[str] = []
        self.sent = bytearray()
        self.received = 0
        self.kept: list[tuple[int, bytes]] = []
        self.paused = self.writing_paused = False
        self.eof_sent = self.closed = self.eof = self.quiet = False
        self.keep_open = False  # the answer to eof_received
        self.made: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.lost: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
        self.side = SideTraffic(self)
        self.actions: list[Callable[[], None]] = [
            *[self.write] * 6,
            *[self.write_lines] * 2,
            *[self.pause_reading, self.resume_reading] * 2,
            self.resume_and_pause,
            self.pause_and_resume,
            self.swap_protocol,
            self.set_limits,
            self.act_soon,
            *[self.side.receive, self.side.send] * 2,
        ]
        if may_end:
            self.actions += [self.close, self.abort, self.write_eof]

    def __repr__(self) -> str:
        return (
            f"<{self.name}: sent {len(self.sent)}, received {self.received} of "
            f"{len(self.peer.sent)}, paused={self.paused} writing_paused={self.writing_paused} "
            f"eof_sent={self.eof_sent} closed={self.closed} eof={self.eof} "
            f"calls={self.calls[-8:]} {self.transport!r}>"
        )

    def check(self, condition: object, message: str) -> None:
        if not condition:
            self.violations.add(f"{message} at {self!r}")

    def make_protocol(self) -> Any:
        """Create the protocol that replaces the current one, of a random kind."""
        self.protocol: Any = self.rng.choice((Plain, Buffered))(self)
        return self.protocol

    @property
    def open(self) -> bool:
        """Return whether it has a transport that neither end has closed."""
        return self.made.done() and not (self.closed or self.lost.done())

    # Callbacks.

    def called(self, protocol: Any, name: str) -> None:
        # With TLS, connection_lost goes to the protocol that was set when the socket closed.
        late = self.tls and name == "connection_lost"
        self.check(protocol is self.protocol or late, f"{name} called on a replaced protocol")
        self.check(not self.lost.done(), f"{name} called after connection_lost")
        self.check(name == "connection_made" or self.made.done(), f"{name} before connection_made")
        self.calls.append(name)

    def connection_made(self, protocol: Any, transport: Any) -> None:
        self.called(protocol, "connection_made")
        self.check(not self.made.done(), "connection_made called twice")
        self.transport = transport
        self.made.set_result(None)
        if not (self.tls and self.model == ORACLE):
            # asyncio's client does not finish its handshake if it pauses reading in here.
            self.perhaps_act()

    def received_bytes(self, protocol: Any, data: bytes) -> None:
        self.called(protocol, "data_received")
        self.check(data, "data_received without data")
        self.check(not self.paused, "data_received while reading is paused")
        self.check(not self.eof, "data_received after eof_received")
        self.check(self.tls or not self.closed, "data_received after close or abort")
        expected = self.peer.sent[self.received : self.received + len(data)]
        self.check(data == expected, f"{len(data)} bytes received differ from those sent")
        if len(self.kept) < 20:
            self.kept.append((self.received, data))
        self.received += len(data)
        self.perhaps_act()

    def eof_received(self, protocol: Any) -> bool:
        self.called(protocol, "eof_received")
        self.check(not self.eof, "eof_received called twice")
        self.check(self.tls or not self.paused, "eof_received while reading is paused")
        self.check(self.tls or not self.closed, "eof_received after close or abort")
        self.eof = True
        if self.keep_open and not self.tls:
            return True
        self.closed = True
        return False

    def connection_lost(self, protocol: Any, exc: BaseException | None) -> None:
        self.called(protocol, "connection_lost")
        # With TLS, a peer that aborts, or sends after EOF, causes an SSLError.
        expected = (ConnectionError, ssl.SSLError) if self.tls else ConnectionError
        self.check(exc is None or isinstance(exc, expected), f"connection_lost({exc!r})")
        for offset, data in self.kept:
            self.check(data == self.peer.sent[offset : offset + len(data)], "kept bytes changed")
        if not self.lost.done():
            self.lost.set_result(exc)

    def pause_writing(self, protocol: Any) -> None:
        self.called(protocol, "pause_writing")
        self.check(not self.writing_paused, "pause_writing called twice")
        self.writing_paused = True
        self.perhaps_act()

    def resume_writing(self, protocol: Any) -> None:
        self.called(protocol, "resume_writing")
        self.check(self.writing_paused, "resume_writing without pause_writing")
        self.writing_paused = False
        if self.model != ORACLE:
            self.perhaps_act()
        elif not self.quiet:
            self.act_soon()  # asyncio's calls connection_lost twice if a write in here fails

    # Actions.

    def perhaps_act(self) -> None:
        if not self.quiet and self.rng.random() < 0.3:
            self.act()

    def act(self) -> None:
        """Do one thing at random."""
        if self.quiet or not self.open:
            return
        action = self.rng.choice(self.actions)
        ends = action in (self.close, self.abort, self.write_eof)
        if not ends or self.rng.random() < 0.1:
            action()

    def act_soon(self) -> None:
        asyncio.get_running_loop().call_soon(self.act)

    def some_data(self) -> bytes:
        room = max(MOST_SENT - len(self.sent), 0)
        data = some_bytes(self.rng, min(self.rng.choice(SIZES), room))
        self.sent += data
        return data

    def write(self) -> None:
        if self.eof_sent:
            return
        data = self.some_data()
        form = self.rng.choice(("bytes", "bytearray", "memoryview", "slice"))
        if form == "bytes":
            self.transport.write(data)
            return
        buffer = bytearray(b"<<" + data + b">>" if form == "slice" else data)
        view: Any = buffer
        if form == "memoryview":
            view = memoryview(buffer)
        elif form == "slice":
            view = memoryview(buffer)[2:-2]
        self.transport.write(view)
        if self.model != ORACLE:  # asyncio's transport keeps the caller's buffer
            buffer[:] = bytes(len(buffer))

    def write_lines(self) -> None:
        if self.eof_sent:
            return
        lines: list[Any] = [self.some_data() for _ in range(self.rng.randrange(5))]
        buffer = bytearray(self.some_data())
        lines.append(memoryview(buffer))
        if self.model == ORACLE:  # asyncio's transport never removes an empty buffer
            lines = [line for line in lines if len(line)]
        self.transport.writelines(lines)
        if self.model != ORACLE:
            buffer[:] = bytes(len(buffer))

    def check_reading(self) -> None:
        if not self.tls and not self.transport.is_closing():
            self.check(
                self.transport.is_reading() is not self.paused,
                f"is_reading() is {self.transport.is_reading()}",
            )

    def pause_reading(self) -> None:
        self.paused = True
        self.transport.pause_reading()
        self.check_reading()

    def resume_reading(self) -> None:
        self.paused = False
        self.transport.resume_reading()
        self.check_reading()

    def resume_and_pause(self) -> None:
        self.resume_reading()
        self.pause_reading()

    def pause_and_resume(self) -> None:
        self.pause_reading()
        self.resume_reading()

    def swap_protocol(self) -> None:
        self.transport.set_protocol(self.make_protocol())
        self.check(self.transport.get_protocol() is self.protocol, "get_protocol differs")

    def set_limits(self) -> None:
        self.transport.set_write_buffer_limits(high=self.rng.choice((0, 10, 5000, 200_000)))

    def write_eof(self) -> None:
        if not self.tls:
            self.eof_sent = True
            self.transport.write_eof()

    def close(self) -> None:
        self.closed = True
        self.transport.close()

    def abort(self) -> None:
        self.closed = True
        self.transport.abort()

    # The run of one endpoint.

    async def play(self) -> None:
        """Act a random number of times, with pauses."""
        await self.made
        for _ in range(self.rng.randrange(5, 40)):
            self.act()
            for _ in range(self.rng.choice((0, 0, 0, 1, 2, 5))):
                await asyncio.sleep(0)
            if self.rng.random() < 0.1:
                await asyncio.sleep(0.0005)

    async def wait_for_bytes(self) -> None:
        """Wait until all bytes the peer has sent so far are received, or the connection is lost."""
        while self.received < len(self.peer.sent) and not self.lost.done():
            if self.open and self.paused:
                self.resume_reading()
            await asyncio.sleep(0.0002)


class SideTraffic:
    """Additional sockets of the endpoint, used with the loop's sock_* methods."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.far.setblocking(False)
        self.sent = bytearray()
        self.received = 0
        self.receiving: asyncio.Task[None] | None = None
        self.sending: asyncio.Task[None] | None = None

    def receive(self) -> None:
        if self.receiving is None or self.receiving.done():
            self.receiving = start_eagerly(self.receive_once())

    def send(self) -> None:
        if self.sending is None or self.sending.done():
            self.sending = start_eagerly(self.send_once())

    async def receive_once(self) -> None:
        loop = asyncio.get_running_loop()
        rng = self.endpoint.rng
        size = rng.choice((1, 100, 5000, 70_000))
        if rng.random() < 0.5:
            data = await loop.sock_recv(self.near, size)
        else:
            buffer = bytearray(size)
            data = bytes(buffer[: await loop.sock_recv_into(self.near, buffer)])
        self.endpoint.check(
            data == self.sent[self.received : self.received + len(data)],
            f"{len(data)} bytes of sock_recv differ from those sent",
        )
        self.received += len(data)

    async def send_once(self) -> None:
        data = some_bytes(self.endpoint.rng, self.endpoint.rng.choice(SIZES))
        self.sent += data
        await asyncio.get_running_loop().sock_sendall(self.far, data)

    async def close(self) -> None:
        for task in (self.receiving, self.sending):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        self.near.close()
        self.far.close()


async def end_gracefully(first: Endpoint, second: Endpoint) -> None:
    """End the connection in a random way in which every byte sent must arrive."""
    rng = first.rng
    first.quiet = second.quiet = True
    await first.wait_for_bytes()
    await second.wait_for_bytes()
    if first.tls or rng.random() < 0.5:
        if rng.random() < 0.5:
            second.pause_reading()
        first.quiet = False
        for _ in range(3):
            first.write()
        first.quiet = True
        first.close()
    else:
        first.keep_open, second.keep_open = rng.random() < 0.5, rng.random() < 0.5
        for endpoint in (first, second):
            if not endpoint.closed:
                endpoint.write()
                if not endpoint.eof_sent:
                    endpoint.write_eof()
            await asyncio.sleep(0)
        for endpoint in (first, second):
            await endpoint.wait_for_bytes()
            while not endpoint.eof and not endpoint.lost.done():
                if endpoint.open and endpoint.paused:
                    endpoint.resume_reading()
                await asyncio.sleep(0.0002)
        for endpoint in (first, second):
            if endpoint.open:
                endpoint.close()
    await second.wait_for_bytes()
    if second.open and second.paused:
        second.resume_reading()
    for endpoint in (first, second):
        exc = await endpoint.lost
        endpoint.check(exc is None, f"connection_lost({exc!r}) after a graceful end")
        endpoint.check(endpoint.received == len(endpoint.peer.sent), "bytes lost at a graceful end")


async def end_anyhow(first: Endpoint, second: Endpoint) -> None:
    """End a connection that either end may have closed already."""
    for endpoint in (first, second):
        endpoint.quiet = True
        if endpoint.open:
            endpoint.rng.choice((endpoint.close, endpoint.abort))()
    # A peer that does not read would block the other's buffered data.
    for endpoint in (first, second):
        if not endpoint.lost.done():
            endpoint.transport.abort()
    await first.lost
    await second.lost
