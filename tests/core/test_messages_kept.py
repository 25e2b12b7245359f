"""A handler never sees its message change, however the interpreter refers to it.

noria overwrites an old message with a new one if nothing else references it. From Python 3.14 on,
the interpreter also holds uncounted references (LOAD_FAST_BORROW), so these tests cover each way in
which Python code can keep a message: suspended frames, kept frames, tracing, monitoring and
compiled loops (the JIT).
"""

from __future__ import annotations

import asyncio
import collections
import functools
import itertools
import os
import socket
import subprocess
import sys
import sysconfig
import types
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest

import noria
from support.loops import MODELS, count, run

MESSAGES = count(40, 400)
WARM_UP = (
    300  # calls before the first message, after which the interpreter has specialised the code
)
HOT = 5000  # turns of a loop after which the JIT has compiled it
FREE_THREADED_BUILD = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
JIT = getattr(sys, "_jit", None)  # from Python 3.14 on

Look = Callable[[], Any]  # the message as the code that kept it sees it now


@types.coroutine
def suspend() -> Generator[None, Any, Any]:
    return (yield)


def finish(coroutine: Any) -> Any:
    """Return the result of a suspended coroutine."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it is suspended again")


def local_of_a_generator(data: bytes) -> Look:
    def generator(data: bytes) -> Iterator[Any]:
        yield
        yield data

    suspended = generator(data)
    next(suspended)
    return lambda: next(suspended)


def generator_that_has_not_begun(data: bytes) -> Look:
    def generator(data: bytes) -> Iterator[Any]:
        yield data

    suspended = generator(data)
    return lambda: next(suspended)


def yielded(data: bytes) -> Look:
    def generator(data: bytes) -> Iterator[Any]:
        yield data
        yield data

    suspended = generator(data)
    next(suspended)
    return lambda: next(suspended)


def sent_to_a_generator(data: bytes) -> Look:
    def generator() -> Generator[Any, Any, None]:
        yield (yield)

    suspended = generator()
    next(suspended)
    return functools.partial(lambda value: value, suspended.send(data))


def stack_of_a_generator(data: bytes) -> Look:
    def generator(data: bytes) -> Generator[Any, Any, None]:
        kept = (data, (yield))
        yield kept[0]

    suspended = generator(data)
    next(suspended)
    return lambda: next(suspended)


def sent_to_the_stack(data: bytes) -> Look:
    def generator() -> Generator[Any, Any, None]:
        kept = ((yield), (yield))
        yield kept[0]

    suspended = generator()
    next(suspended)
    suspended.send(data)
    return lambda: next(suspended)


def stack_of_a_generator_without_its_local(data: bytes) -> Look:
    def generator(data: bytes) -> Generator[Any, Any, None]:
        kept = (data, (yield))
        yield kept[0]

    suspended: Any = generator(data)
    next(suspended)
    suspended.gi_frame.f_locals["data"] = None  # has an effect from Python 3.13 on (PEP 667)
    return lambda: next(suspended)


def delegated(data: bytes) -> Look:
    def inner(data: bytes) -> Generator[Any, Any, Any]:
        return (data, (yield))

    def outer(data: bytes) -> Generator[Any, Any, None]:
        kept = yield from inner(data)
        yield kept[0]

    suspended = outer(data)
    next(suspended)
    return lambda: next(suspended)


def coroutine_in_an_expression(data: bytes) -> Look:
    async def wait(data: bytes) -> Any:
        return [data, await suspend(), data]

    suspended = wait(data)
    suspended.send(None)
    return lambda: finish(suspended)[0]


def coroutine_in_a_call(data: bytes) -> Look:
    def first(*values: Any) -> Any:
        return values[0]

    async def inner(data: bytes) -> Any:
        return first(data, await suspend())

    async def outer(data: bytes) -> Any:
        return first(await inner(data))

    suspended = outer(data)
    suspended.send(None)
    return lambda: finish(suspended)


def coroutine_in_a_with(data: bytes) -> Look:
    class Manager:
        def __init__(self, data: bytes) -> None:
            self.see = data.__len__  # a method bound to the message

        async def __aenter__(self) -> Any:
            await suspend()
            return self.see.__self__

        async def __aexit__(self, *error: object) -> None:
            pass

    async def wait(data: bytes) -> Any:
        async with Manager(data) as kept:
            return kept

    suspended = wait(data)
    suspended.send(None)
    return lambda: finish(suspended)


def asynchronous_generator(data: bytes) -> Look:
    async def generator(data: bytes) -> Any:
        yield (data, await suspend())[0]

    step = generator(data).__anext__()
    step.send(None)
    return lambda: finish(step)


def frame(data: bytes) -> Look:
    kept = sys._getframe()
    return lambda: kept.f_locals["data"]


def frame_of_a_called_function(data: bytes) -> Look:
    def inner(argument: bytes) -> types.FrameType:
        return sys._getframe()

    kept = inner(data)
    return lambda: kept.f_locals["argument"]


def frame_whose_caller_was_changed(data: bytes) -> Look:
    def inner(argument: bytes) -> types.FrameType:
        kept = sys._getframe()
        if kept.f_back is not None:
            kept.f_back.f_locals["data"] = None
        return kept

    kept = inner(data)
    return lambda: kept.f_locals["argument"]


def changed_while_on_the_stack(data: bytes) -> Look:
    def change() -> None:
        sys._getframe(1).f_locals["data"] = None

    kept = (data, change())
    return lambda: kept[0]


def traceback(data: bytes) -> Look:
    def inner(argument: bytes) -> None:
        raise ValueError

    try:
        inner(data)
    except ValueError as error:
        kept: Any = error.__traceback__
    return lambda: kept.tb_next.tb_frame.f_locals["argument"]


def traceback_of_a_generator(data: bytes) -> Look:
    def generator(data: bytes) -> Iterator[Any]:
        yield (data, int("no number"))

    try:
        next(generator(data))
    except ValueError as error:
        kept: Any = error.__traceback__
    return lambda: kept.tb_next.tb_frame.f_locals["data"]


def proxy_of_locals(data: bytes) -> Look:
    kept = sys._getframe().f_locals
    return lambda: kept["data"]


def locals_of_a_function(data: bytes) -> Look:
    kept = locals()
    return lambda: kept["data"]


def closure(data: bytes) -> Look:
    return lambda: data


def default_argument(data: bytes) -> Look:
    return lambda kept=data: kept  # type: ignore[misc]


def class_body(data: bytes) -> Look:
    class Kept:
        value = data

    return lambda: Kept.value


def arguments(data: bytes) -> Look:
    def gather(*values: Any, **names: Any) -> Any:
        return values, names

    kept = gather(data, data=data)
    return lambda: kept[0][0]


def keyword(data: bytes) -> Look:
    def gather(**names: Any) -> Any:
        return names

    kept = gather(data=data)
    return lambda: kept["data"]


def method_of_the_message(data: bytes) -> Look:
    kept = data.hex
    return lambda: bytes.fromhex(kept())


def partial(data: bytes) -> Look:
    return functools.partial(bytes, data)


def iterators(data: bytes) -> Look:
    kept = iter(data)
    return lambda: bytes(kept)


def repeated(data: bytes) -> Look:
    kept = itertools.repeat(data)
    return lambda: next(kept)


def expression(data: bytes) -> Look:
    kept = (value for value in (data,))
    return lambda: next(kept)


def view(data: bytes) -> Look:
    kept = memoryview(data)[1:]
    return lambda: data_of(kept)


def data_of(kept: memoryview) -> bytes:
    return bytes(kept.obj)


def matched(data: bytes) -> Look:
    match (data, 1):
        case (kept, 1):
            return lambda: kept
    raise AssertionError


def hot_generator(data: bytes) -> Look:
    def generator(data: bytes) -> Generator[Any, Any, None]:
        size = 0
        for number in range(HOT):
            size += len(data)
            if number == HOT - 2:
                kept = (data, (yield))
        yield kept[0]

    suspended = generator(data)
    next(suspended)
    return lambda: next(suspended)


def hot_calls(data: bytes) -> Look:
    def inner(argument: bytes, number: int) -> Any:
        return argument if number == HOT - 1 else None

    kept = None
    for number in range(HOT):
        found = inner(data, number)
        if found is not None:
            kept = found
    return functools.partial(lambda value: value, kept)


def hot_frames(data: bytes) -> Look:
    def inner(argument: bytes, number: int) -> Any:
        return sys._getframe() if number == HOT - 1 else None

    for number in range(HOT):
        kept: Any = inner(data, number)
    return lambda: kept.f_locals["argument"]


def hot_coroutines(data: bytes) -> Look:
    async def inner(data: bytes, number: int) -> Any:
        return (data, await suspend()) if number == HOT - 1 else None

    async def outer(data: bytes) -> Any:
        for number in range(HOT):
            kept = await inner(data, number)
        return kept[0]

    suspended = outer(data)
    suspended.send(None)
    return lambda: finish(suspended)


WAYS = [
    value
    for name, value in list(globals().items())
    if isinstance(value, types.FunctionType)
    and value.__module__ == __name__
    and value.__annotations__ == {"data": "bytes", "return": "Look"}
]


class Keeper(asyncio.Protocol):
    """Keeps each message in one way, together with a copy."""

    def __init__(self, way: Callable[[bytes], Look]) -> None:
        self.way = way
        self.copies: list[bytearray] = []
        self.looks: list[Look] = []
        self.errors: list[Exception] = []

    def data_received(self, data: bytes) -> None:
        self.copies.append(bytearray(data))
        try:
            self.looks.append(self.way(data))
        except Exception as error:
            self.errors.append(error)
            self.looks.append(bytes)

    def check(self) -> None:
        assert not self.errors
        assert len(self.looks) == MESSAGES
        for copy, look in zip(self.copies, self.looks, strict=True):
            assert look() == copy


def send_messages(protocol: Any, model: str, received: Callable[[], int]) -> None:
    """Send MESSAGES different messages of about one size, each after the last was received."""
    with noria.Reactor(model) as reactor:
        server = reactor.listen(lambda: protocol)
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
            for number in range(MESSAGES):
                before = received()
                client.sendall(b"%06d" % number + b"." * (60 - number % 3))
                while received() == before:
                    reactor.run_once(1.0)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("model", ["epoll", "io_uring"])
def test_a_message_that_code_refers_to_stays_as_it_was(
    way: Callable[[bytes], Look], model: str
) -> None:
    for number in range(3 if way.__name__.startswith("hot") else WARM_UP):
        way(b"%d" % number)()
    protocol = Keeper(way)
    send_messages(protocol, model, lambda: len(protocol.looks))
    protocol.check()


def test_a_message_that_a_handler_has_is_counted_twice() -> None:
    """References are held by the stream and by the handler's frame."""
    counts: list[int] = []

    class Protocol(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            counts.append(sys.getrefcount(data))

    send_messages(Protocol(), "epoll", lambda: len(counts))
    assert min(counts) >= 2


@pytest.mark.skipif(FREE_THREADED_BUILD, reason="without the GIL no message is overwritten")
@pytest.mark.parametrize("model", ["epoll", "io_uring"])
def test_a_message_without_other_references_is_overwritten(model: str) -> None:
    """Without reuse, the tests of this file would be vacuous."""
    addresses: list[int] = []
    fillers: list[bytes] = []

    class Protocol(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            addresses.append(id(data))

    def received() -> int:
        fillers.append(b"%066d" % len(fillers))  # would reuse the memory of a freed message
        return len(addresses)

    send_messages(Protocol(), model, received)
    assert len(set(addresses)) < MESSAGES / 2


def in_its_locals(seen: list[None], right: list[bool]) -> Generator[None, bytes, None]:
    former = yield
    seen.append(None)
    while True:
        copy = bytearray(former)
        data = yield
        right.append(former == copy)
        former = data
        seen.append(None)


def in_its_stack(seen: list[None], right: list[bool]) -> Generator[None, bytes, None]:
    while True:
        first, _, second, _ = (yield), seen.append(None), (yield), seen.append(None)  # type: ignore[func-returns-value]
        right.append(int(first[:6]) + 1 == int(second[:6]))


@pytest.mark.parametrize("way", [in_its_locals, in_its_stack], ids=lambda way: way.__name__)
def test_a_generator_may_be_what_receives(way: Callable[..., Generator[None, bytes, None]]) -> None:
    """data_received is the `send` of a generator: no Python frame calls it."""
    seen: list[None] = []
    right: list[bool] = []
    generator = way(seen, right)
    next(generator)
    protocol: Any = types.SimpleNamespace(
        connection_made=lambda transport: None,
        eof_received=lambda: False,
        connection_lost=lambda error: None,
        data_received=generator.send,
    )
    send_messages(protocol, "epoll", lambda: len(seen))
    assert len(right) >= MESSAGES // 2
    assert all(right)


@pytest.mark.parametrize("kind", [list, collections.deque])
def test_a_container_may_be_what_receives(kind: Callable[[], Any]) -> None:
    kept = kind()
    protocol: Any = types.SimpleNamespace(
        connection_made=lambda transport: None,
        eof_received=lambda: False,
        connection_lost=lambda error: None,
        data_received=kept.append,
    )
    send_messages(protocol, "epoll", lambda: len(kept))
    assert [int(data[:6]) for data in kept] == list(range(MESSAGES))


def plain(data: bytes) -> Look:
    """Keep nothing; the observer does."""

    def inner(argument: bytes) -> int:
        return len(argument)

    def same(argument: bytes) -> bytes:
        return argument

    same(data)
    inner(same(data))
    return lambda: None


class Observer:
    """Keeps every message and frame passed to a tracing or monitoring function."""

    def __init__(self) -> None:
        self.kept: list[tuple[Any, bytearray]] = []
        self.frames: list[tuple[types.FrameType, str, bytearray]] = []

    def see(self, value: Any) -> None:
        if type(value) is bytes:
            self.kept.append((value, bytearray(value)))

    def see_frame(self, frame: types.FrameType) -> None:
        for name in ("data", "argument"):
            value = frame.f_locals.get(name)
            if type(value) is bytes:
                self.frames.append((frame, name, bytearray(value)))

    def trace(self, frame: types.FrameType, event: str, value: Any) -> Any:
        if frame.f_code.co_filename != __file__:
            return None
        frame.f_trace_opcodes = True
        self.see(value)
        if event in ("call", "return"):
            self.see_frame(frame)
        return self.trace

    def check(self) -> None:
        assert len(self.kept) + len(self.frames) >= MESSAGES
        for value, copy in self.kept:
            assert value == copy
        for frame, name, copy in self.frames:
            assert frame.f_locals.get(name) in (copy, None)  # None: the way has set it to that


@pytest.mark.parametrize("way", [plain, *WAYS], ids=lambda way: way.__name__)
@pytest.mark.parametrize("install", [sys.settrace, sys.setprofile])
def test_what_a_trace_function_keeps_stays_as_it_was(
    way: Callable[[bytes], Look], install: Callable[[Any], None]
) -> None:
    if way.__name__.startswith("hot"):
        pytest.skip("a traced loop is not compiled, and slow")
    former = sys.gettrace() if install is sys.settrace else sys.getprofile()
    observer = Observer()

    def traced(data: bytes) -> Look:
        install(observer.trace)
        try:
            return way(data)
        finally:
            install(former)

    protocol = Keeper(traced)
    send_messages(protocol, "epoll", lambda: len(protocol.looks))
    observer.check()
    assert not protocol.errors
    if way is not plain:
        protocol.check()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="sys.monitoring came with Python 3.12")
@pytest.mark.parametrize("way", [plain, *WAYS], ids=lambda way: way.__name__)
def test_what_a_monitoring_function_keeps_stays_as_it_was(way: Callable[[bytes], Look]) -> None:
    if way.__name__.startswith("hot"):
        pytest.skip("a monitored loop is not compiled, and slow")
    monitoring: Any = sys.monitoring  # type: ignore[attr-defined,unused-ignore]
    events = monitoring.events
    observer = Observer()

    def see(code: types.CodeType, offset: int, *values: Any) -> None:
        for value in values:
            observer.see(value)
        caller = sys._getframe(1)
        if caller.f_code.co_filename == __file__:
            observer.see_frame(caller)

    watched = {
        name: getattr(events, name)
        for name in ("PY_START", "PY_RETURN", "PY_YIELD", "CALL", "LINE", "INSTRUCTION")
    }
    tool = monitoring.DEBUGGER_ID
    monitoring.use_tool_id(tool, "noria's tests")
    try:
        for event in (*watched.values(), events.C_RETURN):
            monitoring.register_callback(tool, event, see)

        def monitored(data: bytes) -> Look:
            monitoring.set_events(tool, sum(watched.values()))
            try:
                return way(data)
            finally:
                monitoring.set_events(tool, 0)

        protocol = Keeper(monitored)
        send_messages(protocol, "epoll", lambda: len(protocol.looks))
    finally:
        for event in (*watched.values(), events.C_RETURN):
            monitoring.register_callback(tool, event, None)
        monitoring.free_tool_id(tool)
    observer.check()
    assert not protocol.errors
    if way is not plain:
        protocol.check()


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("model", MODELS)
def test_what_tasks_were_passed_stays_as_it_was(model: str, eager: bool) -> None:
    if eager and sys.version_info < (3, 12):
        pytest.skip("eager tasks came with Python 3.12")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        if eager:
            loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore]
        end = loop.create_future()

        async def first(data: bytes) -> Any:
            return (data, await asyncio.shield(end))[0]

        class Protocol(asyncio.Protocol):
            def __init__(self) -> None:
                self.copies: list[bytearray] = []
                self.tasks: list[asyncio.Task[Any]] = []

            def data_received(self, data: bytes) -> None:
                self.copies.append(bytearray(data))
                self.tasks.append(asyncio.create_task(first(data)))

        mine, peer = socket.socketpair()
        with peer:
            mine.setblocking(False)
            transport, protocol = await loop.create_connection(Protocol, sock=mine)
            for number in range(MESSAGES):
                peer.send(b"%060d" % number)
                while len(protocol.tasks) <= number:
                    await asyncio.sleep(0)
            end.set_result(None)
            assert await asyncio.gather(*protocol.tasks) == protocol.copies
            transport.close()

    run(main(), model)


@pytest.mark.skipif(
    JIT is None or not JIT.is_available() or JIT.is_enabled(),
    reason="this Python has no JIT, or runs with it already",
)
def test_these_tests_pass_with_the_jit() -> None:
    """Run these tests again in an interpreter with the JIT enabled."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        __file__,
    ]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHON_JIT": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert done.returncode == 0, done.stdout
