"""The server of the experiment, controlled by JSON: ``python -m noria.compare.measure.server``.

It is the same for all models: one Protocol class and noria.Reactor.listen. A thread reads the
commands, because a model that is blocked in accept(2) or recv(2) cannot; the thread uses no CPU
time between two commands.

    first output             {"port": 40123, "pid": 1234}           once it listens
    {"command": "stats"}     {"user", "kernel", "open", "refused", "reason", "counters": {...}}
    {"command": "samples"}   {"samples": [[asked, ready, copy_begin, copy_end, asks, handler,
                              pieces]]}, those since the last such command
    {"command": "stop"}, or the end of its input, ends it
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import resource
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from noria import ModelLimit, Reactor
from noria.compare.loadgen.descriptor_limit import raise_descriptor_limit
from noria.compare.measure.child import Message, die_with_parent, reply
from noria.servers.echo import Echo


class Sampler(asyncio.Protocol):
    """Send no answer; record when each message of `size` bytes was polled, copied and handled.

    If a message arrives in several pieces: when the first was polled and reported ready, and when
    the last was copied and handled.
    """

    def __init__(self, model: Any, size: int, samples: list[list[int]]):
        self.model = model
        self.size = size
        self.samples = samples
        self.received = 0
        self.first: tuple[int, ...] = ()
        self.pieces = 0

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        moments = self.model.last_timestamps()
        if not self.received:
            self.first = moments
            self.pieces = 0
        self.received += len(data)
        self.pieces += 1
        while self.received >= self.size:  # on a slow machine two can arrive at once
            asked, ready, copy_begin, _, asks = self.first
            self.samples.append([asked, ready, copy_begin, moments[3], asks, now, self.pieces])
            self.first = moments
            self.received -= self.size
            self.pieces = 1


class Refusals:
    """Count the connections that the model refused, and keep the reason for the first."""

    def __init__(self) -> None:
        self.refused = 0
        self.reason = ""

    def closed(self, stream: object, error: BaseException | None) -> None:
        """Called when a connection is closed."""
        if isinstance(error, ModelLimit):
            self.refused += 1
            self.reason = self.reason or str(error.strerror or error)


class Control(threading.Thread):
    """The thread that replies to commands."""

    def __init__(self, handlers: dict[str, Callable[[], Message]]):
        super().__init__(daemon=True, name="noria-control")
        self.handlers = handlers

    def run(self) -> None:
        try:
            while line := sys.stdin.readline():
                command = json.loads(line)["command"]
                if command == "stop":
                    break
                reply(self.handlers[command]())
        except OSError:
            pass  # the parent has closed the pipe
        except Exception:
            traceback.print_exc()
        # At once on every model: nothing here needs an orderly shutdown.
        os._exit(0)


def stats(reactor: Reactor, server: Any, refusals: Refusals) -> Message:
    """CPU time in seconds and the model's counters."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "counters": reactor.loop.model.stats(),
        "user": usage.ru_utime,
        "kernel": usage.ru_stime,
        "open": len(server.streams),
        "refused": refusals.refused,
        "reason": refusals.reason,
    }


def take(samples: list[list[int]]) -> list[list[int]]:
    """Remove the samples from the list and return them; the other thread may append meanwhile."""
    taken = samples[:]
    del samples[: len(taken)]
    return taken


def serve(options: argparse.Namespace) -> None:
    """Listen, report the port, and run until the command "stop"."""
    refusals = Refusals()
    # Refused connections are counted; a log line for each would only cost time.
    logging.getLogger("noria").setLevel(logging.CRITICAL)
    with Reactor(options.model) as reactor:
        model = reactor.loop.model
        samples: list[list[int]] = []

        def sampler() -> Sampler:
            return Sampler(model, options.record, samples)

        factory: Callable[[], asyncio.BaseProtocol] = Echo
        if options.record:
            model.recording = True
            factory = sampler
        server = reactor.listen(factory, backlog=4096)
        server.streams.on_close = refusals.closed
        control = Control(
            {
                "stats": lambda: stats(reactor, server, refusals),
                "samples": lambda: {"samples": take(samples)},
            }
        )
        control.start()
        reply({"port": server.port, "pid": os.getpid()})
        reactor.run()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the server; return the exit status."""
    p = argparse.ArgumentParser(prog="python -m noria.compare.measure.server")
    p.add_argument("model")
    p.add_argument("--cpu", type=int, metavar="N", help="run on this core only")
    p.add_argument(
        "--record", type=int, metavar="BYTES", help="record times of messages of this size"
    )
    options = p.parse_args(arguments)
    die_with_parent()
    if options.cpu is not None:
        os.sched_setaffinity(0, {options.cpu})
    raise_descriptor_limit()
    try:
        serve(options)
    except OSError as error:
        reply({"error": str(error), "kind": type(error).__name__})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
