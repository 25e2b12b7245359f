"""Clients of the experiment: ``python -m noria.compare.measure.clients``, controlled by JSON lines.

One process for the whole run, on a core of its own. Each order is one line with the key "do", and
is answered by one line; "load" also says {"began": true} when its measured time begins.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
from collections.abc import Callable, Sequence
from typing import Any

from noria.compare.loadgen import load
from noria.compare.measure import newcomers, sender
from noria.compare.measure.child import Message, answer
from noria.errors import NoriaError

HOST = "127.0.0.1"


class Clients:
    """What can be ordered; keeps the idle connections between two orders."""

    def __init__(self) -> None:
        self.idle: list[load.IdleConnections] = []

    def load(self, port: int, **options: Any) -> Message:
        """The compiled load generator: see noria.compare.loadgen.load.run."""
        result = load.run(HOST, port, at_start=lambda: answer({"began": True}), **options)
        found = result.as_dict()
        del found["histogram"]
        return found

    def rest(self, port: int, total: int) -> Message:
        """Opens idle connections until there are `total`."""
        more = total - sum(map(len, self.idle))
        if more > 0:
            self.idle.append(load.open_idle(HOST, port, more))
        return {"idle": sum(map(len, self.idle))}

    def leave(self) -> Message:
        """Closes the idle connections."""
        while self.idle:
            self.idle.pop().close()
        return {"idle": 0}

    def send(self, port: int, **options: Any) -> Message:
        """Sample messages: see noria.compare.measure.sender."""
        return {"samples": sender.send(HOST, port, **options)}

    def come(self, port: int, **options: Any) -> Message:
        """Clients that come at once: see noria.compare.measure.newcomers."""
        return {"first_answer_ms": newcomers.come(HOST, port, **options)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command until the end of its input; returns its exit status."""
    p = argparse.ArgumentParser(prog="python -m noria.compare.measure.clients")
    p.add_argument("--cpu", type=int, metavar="N", help="run on this core alone")
    options = p.parse_args(arguments)
    if options.cpu is not None:
        os.sched_setaffinity(0, {options.cpu})
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    clients = Clients()
    orders: dict[str, Callable[..., Message]] = {
        "load": clients.load,
        "rest": clients.rest,
        "leave": clients.leave,
        "send": clients.send,
        "come": clients.come,
    }
    answer({"ready": True})
    for line in sys.stdin:
        order = json.loads(line)
        try:
            found = orders[order.pop("do")](**order)
        except (OSError, NoriaError) as error:
            text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            found = {"error": text, "kind": type(error).__name__}
        answer(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
