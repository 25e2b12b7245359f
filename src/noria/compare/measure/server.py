"""The server of the experiment, controlled by JSON: ``python -m noria.compare.measure.server``.

All models run it alike: the same Protocol class through noria.Reactor.listen. A thread of its own
reads the questions, because a model that is asleep in `accept` or `recv` hears of nothing else;
between two questions that thread is itself asleep and costs nothing.

    it says              {"port": 40123, "pid": 1234}           once it listens
    {"ask": "stats"}     {"user", "kernel", "open", "refused", "reason", "counters": {...}}
    {"ask": "samples"}   {"samples": [[asked, ready, copy_begin, copy_end, asks, handler, pieces]]}
    {"ask": "stop"}, or the end of its input, ends it
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
from noria.compare.measure.child import Message, answer
from noria.servers.echo import Echo


class Sampler(asyncio.Protocol):
    """Answers nothing; notes when each message of `size` bytes was asked for, copied and handled.

    Of a message that comes in pieces: when the first was asked for and known of, and when the last
    was copied and handled.
    """

    def __init__(self, model: Any, size: int, samples: list[list[int]]):
        self.model = model
        self.size = size
        self.samples = samples
        self.got = 0
        self.first: tuple[int, ...] = ()
        self.pieces = 0

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        moments = self.model.last_timestamps()
        if not self.got:
            self.first = moments
            self.pieces = 0
        self.got += len(data)
        self.pieces += 1
        while self.got >= self.size:  # a slow machine gets two at once
            asked, ready, copy_begin, _, asks = self.first
            self.samples.append([asked, ready, copy_begin, moments[3], asks, now, self.pieces])
            self.first = moments
            self.got -= self.size
            self.pieces = 1


class Refusals:
    """Counts the connections that the model refused, and keeps why it refused the first."""

    def __init__(self) -> None:
        self.refused = 0
        self.reason = ""

    def closed(self, stream: object, error: BaseException | None) -> None:
        """A connection ended."""
        if isinstance(error, ModelLimit):
            self.refused += 1
            self.reason = self.reason or str(error.strerror or error)


class Control(threading.Thread):
    """Answers the questions."""

    def __init__(self, answers: dict[str, Callable[[], Message]]):
        super().__init__(daemon=True, name="noria-control")
        self.answers = answers

    def run(self) -> None:
        try:
            while line := sys.stdin.readline():
                question = json.loads(line)["ask"]
                if question == "stop":
                    break
                answer(self.answers[question]())
        except OSError:
            pass  # nobody listens to the answers any more
        except Exception:
            traceback.print_exc()
        # At once, in every model: there is nothing here that an orderly end would save.
        os._exit(0)


def stats(reactor: Reactor, server: Any, refusals: Refusals) -> Message:
    """Processor time in seconds and the model's counters, read together."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "counters": reactor.loop.model.stats(),
        "user": usage.ru_utime,
        "kernel": usage.ru_stime,
        "open": len(server.streams),
        "refused": refusals.refused,
        "reason": refusals.reason,
    }


def serve(options: argparse.Namespace) -> None:
    """Listens, tells where, and runs until it is told to stop."""
    refusals = Refusals()
    # One line for each of thousands is of no use where they are counted.
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
                "samples": lambda: {"samples": samples},
            }
        )
        control.start()
        answer({"port": server.port, "pid": os.getpid()})
        reactor.run()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    p = argparse.ArgumentParser(prog="python -m noria.compare.measure.server")
    p.add_argument("model")
    p.add_argument("--cpu", type=int, metavar="N", help="run on this core alone")
    p.add_argument("--record", type=int, metavar="BYTES", help="note the moments of such messages")
    options = p.parse_args(arguments)
    if options.cpu is not None:
        os.sched_setaffinity(0, {options.cpu})
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        serve(options)
    except OSError as error:
        answer({"error": str(error), "kind": type(error).__name__})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
