"""io_uring refused by the system; the thread of a ring; its buffers; requests of closed sockets."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import noria
from noria import READ, Reactor, models
from noria._core.loop import Loop
from noria.servers.echo import Echo
from support.running import run

LIMIT = 10.0
SYSCTL = Path("/proc/sys/kernel/io_uring_disabled")

works, why_not = models.availability("io_uring")
needs_io_uring = pytest.mark.skipif(not works, reason=why_not)

# A seccomp filter that fails io_uring_setup (425) with an errno. It cannot be removed, so each test
# uses a process of its own.
SECCOMP = """
import ctypes, logging, struct, sys, time
import errno as errnos

def forbid(errno):
    load_number = struct.pack("=HBBI", 0x20, 0, 0, 0)           # BPF_LD | BPF_W | BPF_ABS
    if_it_is = struct.pack("=HBBI", 0x15, 0, 1, 425)            # BPF_JMP | BPF_JEQ
    refuse = struct.pack("=HBBI", 0x06, 0, 0, 0x00050000 | errno)   # SECCOMP_RET_ERRNO
    allow = struct.pack("=HBBI", 0x06, 0, 0, 0x7fff0000)        # SECCOMP_RET_ALLOW
    code = ctypes.create_string_buffer(load_number + if_it_is + refuse + allow, 32)
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", 4, ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0, ctypes.get_errno()      # PR_SET_NO_NEW_PRIVS
    assert libc.prctl(22, 2, program, 0, 0) == 0, ctypes.get_errno()    # PR_SET_SECCOMP

class Lines(logging.Handler):
    said = []
    def emit(self, record):
        self.said.append(record.getMessage())

logging.getLogger("noria").addHandler(Lines())
"""


@needs_io_uring
@pytest.mark.parametrize("name", ["EPERM", "ENOSYS"])
def test_refused_by_seccomp(name: str) -> None:
    run(
        SECCOMP
        + """
forbid(getattr(errnos, sys.argv[1]))
import noria
from noria import Reactor, models

try:
    Reactor("io_uring")
except noria.ModelUnavailable as error:
    assert error.errno == getattr(errnos, sys.argv[1]), error.errno
    assert "io_uring is refused here" in str(error), error
    assert "seccomp" in str(error), error
    assert isinstance(error, OSError)
else:
    raise AssertionError("it was not refused")
available, reason = models.availability("io_uring")
assert not available
assert "seccomp" in reason
assert models.availability("epoll") == (True, "")

assert Lines.said == [], Lines.said
models.availability("epoll")
began = time.monotonic()
with Reactor("auto") as reactor:
    seconds = time.monotonic() - began
    assert reactor.model == "epoll"
    reactor.run_once(0)
assert seconds < 0.1, seconds
with Reactor("io_uring,epoll") as reactor:
    assert reactor.model == "epoll"
assert len(Lines.said) == 1, Lines.said
assert "seccomp" in Lines.said[0]

try:
    Reactor("io_uring,io_uring")
except noria.ModelUnavailable as error:
    assert "seccomp" in str(error)
else:
    raise AssertionError
assert len(Lines.said) == 1, Lines.said

try:
    noria.selector("io_uring")
except noria.ModelUnavailable:
    pass
else:
    raise AssertionError
""",
        name,
    )


def test_auto_falls_back_when_the_preferred_is_refused() -> None:
    """auto, which prefers io_uring, uses epoll and logs the reason."""
    run(
        SECCOMP
        + """
forbid(errnos.EPERM)
import noria
from noria import Reactor, models
assert models.PREFERENCE[0] == "io_uring"
began = time.monotonic()
with Reactor() as reactor:
    seconds = time.monotonic() - began
    assert reactor.model == "epoll"
assert seconds < 0.1, seconds
Reactor().close()
assert len(Lines.said) == 1, Lines.said
assert "io_uring is refused here" in Lines.said[0]
name, reason = models.choose()
assert name == "epoll"
assert "seccomp" in reason
"""
    )


def test_turned_off_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NORIA_IO_URING", "0")
    with pytest.raises(noria.ModelUnavailable, match="NORIA_IO_URING is 0"):
        Reactor("io_uring")
    assert models.availability("io_uring")[0] is False
    Reactor("auto").close()


@needs_io_uring
def test_turned_off_by_the_sysctl() -> None:
    if os.environ.get("NORIA_TEST_SYSCTL") != "1":
        pytest.skip("it turns io_uring off for the whole machine: NORIA_TEST_SYSCTL=1 allows it")
    if not os.access(SYSCTL, os.W_OK) or os.geteuid() != 0:
        pytest.skip("the sysctl kernel.io_uring_disabled cannot be changed here")
    before = SYSCTL.read_text()
    try:
        try:
            SYSCTL.write_text("2")
        except OSError as error:
            pytest.skip(f"the sysctl kernel.io_uring_disabled cannot be changed here: {error}")
        # In another process: this one caches whether io_uring is available.
        run(
            """
            import noria
            try:
                noria.Reactor("io_uring")
            except noria.ModelUnavailable as error:
                assert "sysctl kernel.io_uring_disabled is 2" in str(error), error
            else:
                raise AssertionError("it was not refused")
            noria.Reactor("auto").close()
            """
        )
    finally:
        SYSCTL.write_text(before)


@needs_io_uring
def test_no_descriptor_for_the_ring() -> None:
    run(
        """
        import os, resource
        import noria, noria.reactor
        from noria._core.models import io_uring
        resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))
        opened = []
        try:
            while True:
                opened.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            pass
        try:
            noria.Reactor("io_uring")
        except noria.ModelUnavailable as error:
            assert "no descriptor is free" in str(error), error
        else:
            raise AssertionError("it was not refused")
        for fd in opened:
            os.close(fd)
        noria.Reactor("io_uring").close()
        """
    )


@pytest.mark.parametrize("model", ["epoll", pytest.param("io_uring", marks=needs_io_uring)])
def test_no_memory(model: str) -> None:
    """With the address space exhausted, making a model fails and leaves other descriptors open."""
    outcomes = {
        run(
            """
            import os, resource, sys
            import noria, noria.reactor
            from noria._core.models import epoll, io_uring
            from noria._core.loop import Loop
            pages = int(open("/proc/self/statm").read().split()[0])
            limit = pages * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
            # What the allocator has in reserve must not be enough.
            held, size = [], 1 << 20
            while size >= 1 << 10:
                try:
                    held.append(bytearray(size))
                except MemoryError:
                    size //= 2
            limit += int(sys.argv[2])
            resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
            outcome = "made"
            try:
                noria.Reactor(sys.argv[1]).close()
            except noria.ModelUnavailable as error:
                outcome = "refused"
                assert "no memory for the rings" in str(error), error
            except MemoryError:
                outcome = "refused"
            os.fstat(0)
            print(outcome)
            """,
            model,
            str(room),
        )
        for room in range(0, 1_000_000, 64 * 1024)
    }
    assert "refused\n" in outcomes, "the limit had no effect"


@needs_io_uring
def test_a_ring_belongs_to_one_thread() -> None:
    errors: list[str] = []

    def elsewhere() -> None:
        for function in (reactor.run, lambda: reactor.run_once(0)):
            try:
                function()
            except RuntimeError as error:
                errors.append(str(error))

    with Reactor("io_uring") as reactor:
        reactor.run_once(0)
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        reactor.run_once(0)
    assert len(errors) == 2
    assert all("belongs to the thread that ran it first" in error for error in errors)
    assert all("epoll" in error for error in errors)


# The buffers.


@pytest.fixture
def plain() -> Iterator[Reactor]:
    """A reactor whose ring uses a whole buffer for each arrival, as before Linux 6.12."""
    from noria._core.models.io_uring import IoUring

    with Reactor("io_uring") as reactor:
        reactor.loop.close()
        reactor.loop = Loop(IoUring(incremental=False))
        yield reactor


def serve_while(reactor: Reactor, client: Callable[[int], None]) -> None:
    """Serve echo while `client(port)` runs in a thread; raises its exception."""
    server = reactor.listen(Echo)
    problems: list[BaseException] = []

    def talk() -> None:
        try:
            client(server.port)
        except BaseException as error:
            problems.append(error)
        finally:
            reactor.stop()

    thread = threading.Thread(target=talk)
    thread.start()
    reactor.run()
    thread.join()
    if problems:
        raise problems[0]


@needs_io_uring
def test_whole_buffers(plain: Reactor) -> None:
    data = bytes(range(256)) * 4000

    def client(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), LIMIT) as sock:
            for size in (1, 100, 8192, 8193, 100_000):
                sock.sendall(data[:size])
                assert receive(sock, size) == data[:size]
            sender = threading.Thread(target=sock.sendall, args=(data,))
            sender.start()
            assert receive(sock, len(data)) == data
            sender.join()

    serve_while(plain, client)


def receive(sock: socket.socket, size: int) -> bytes:
    got = bytearray()
    while len(got) < size:
        part = sock.recv(size - len(got))
        assert part, f"the end after {len(got)} of {size} bytes"
        got += part
    return bytes(got)


def burst(reactor: Reactor, count: int = 1000) -> Callable[[int], None]:
    """A client of `count` connections that send 16 KiB each while the reactor is blocked: 16 MB
    arrive at once, more than the buffers hold (4 MiB)."""

    def client(port: int) -> None:
        clients = [socket.create_connection(("127.0.0.1", port), LIMIT) for _ in range(count)]
        try:
            sent = threading.Event()
            for sock in clients:
                sock.sendall(b"x")
            for sock in clients:
                assert receive(sock, 1) == b"x"
            reactor.call_soon_threadsafe(sent.wait, LIMIT)
            for number, sock in enumerate(clients):
                sock.sendall(b"%08d" % number * 2048)
            sent.set()
            for number, sock in enumerate(clients):
                assert receive(sock, 16384) == b"%08d" % number * 2048
        finally:
            for sock in clients:
                sock.close()

    return client


@needs_io_uring
def test_more_at_once_than_there_are_whole_buffers(plain: Reactor) -> None:
    """The kernel runs out of buffers (ENOBUFS): requests are made again, and nothing is lost."""
    serve_while(plain, burst(plain))


@needs_io_uring
def test_more_at_once_than_there_is_room_in_shared_buffers() -> None:
    with Reactor("io_uring") as reactor:
        serve_while(reactor, burst(reactor))


# Requests of closed sockets.


@needs_io_uring
def test_a_request_never_reads_from_the_next_owner_of_a_number() -> None:
    """Connections are paused, cancelled and closed; their numbers are reused at once."""

    class Leaves(Echo):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            made.append(self)

        def data_received(self, data: bytes) -> None:
            got.append(data)
            self.transport.pause_reading()
            self.transport.resume_reading()
            self.transport.close()

    made: list[Any] = []
    got: list[bytes] = []
    with Reactor("io_uring") as reactor:
        server = reactor.listen(Leaves)

        def client() -> None:
            try:
                for number in range(2000):
                    with socket.create_connection(("127.0.0.1", server.port), LIMIT) as sock:
                        sock.sendall(b"%06d" % number)
                        assert sock.recv(1) == b""
            finally:
                reactor.stop()

        thread = threading.Thread(target=client)
        thread.start()
        reactor.run()
        thread.join()
    assert got == [b"%06d" % number for number in range(2000)]


@needs_io_uring
def test_a_watched_number_that_is_used_again() -> None:
    """2,000 times: watch a socket, close it with the poll in flight, open one with its number."""
    received: list[bytes] = []
    with Reactor("io_uring") as reactor:
        numbers = set()
        for number in range(2000):
            here, there = socket.socketpair()
            numbers.add(here.fileno())

            def read(sock: socket.socket, mask: int) -> None:
                received.append(sock.recv(100))

            reactor.register(here, READ, read)
            if number % 2:
                there.send(b"%d" % number)
                while not received or received[-1] != b"%d" % number:
                    reactor.run_once(1)
            elif number % 4 == 0:
                reactor.run_once(0)
            reactor.unregister(here)
            here.close()
            there.close()
        assert len(numbers) < 100, "the numbers were not used again: the test tests nothing"
    assert received == [b"%d" % number for number in range(1, 2000, 2)]
