"""Clients of the experiment: ``python -m noria.compare.measure.clients``, controlled by JSON lines.

One process for the whole run, on its own core. Each command is one line with the key "command", and
gets one line as the reply; "load" also gets {"started": true} when its measured time begins.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from noria.compare.loadgen import load
from noria.compare.loadgen.connections import IdleConnections
from noria.compare.loadgen.descriptor_limit import raise_descriptor_limit
from noria.compare.measure import sample_sender, waiting_clients
from noria.compare.measure.child import Message, reply, serve_requests
from noria.errors import NoriaError, error_message

HOST = "127.0.0.1"


class Clients:
    """The commands. The idle connections stay open between two commands."""

    def __init__(self) -> None:
        self.idle: list[IdleConnections] = []

    def load(self, port: int, **options: Any) -> Message:
        """The compiled load generator: see noria.compare.loadgen.load.run."""
        result = load.run(HOST, port, at_start=lambda: reply({"started": True}), **options)
        found = result.as_dict()
        del found["histogram"]
        return found

    def open_idle(self, port: int, total: int) -> Message:
        """Open idle connections until there are `total`."""
        more = total - sum(map(len, self.idle))
        if more > 0:
            self.idle.append(load.open_idle(HOST, port, more))
        return {"idle": sum(map(len, self.idle))}

    def close_idle(self) -> Message:
        """Close the idle connections."""
        while self.idle:
            self.idle.pop().close()
        return {"idle": 0}

    def send_samples(self, port: int, **options: Any) -> Message:
        """Send sample messages: see noria.compare.measure.sample_sender."""
        return {"samples": sample_sender.send_samples(HOST, port, **options)}

    def first_answers(self, port: int, **options: Any) -> Message:
        """Connect clients at once: see noria.compare.measure.waiting_clients."""
        return {"first_answer_ms": waiting_clients.first_answers(HOST, port, **options)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until the end of the input; return the exit status."""
    p = argparse.ArgumentParser(prog="python -m noria.compare.measure.clients")
    p.add_argument("--cpu", type=int, metavar="N", help="run on this core only")
    options = p.parse_args(arguments)
    if options.cpu is not None:
        os.sched_setaffinity(0, {options.cpu})
    raise_descriptor_limit()
    clients = Clients()
    serve_requests(
        {
            "load": clients.load,
            "open_idle": clients.open_idle,
            "close_idle": clients.close_idle,
            "send_samples": clients.send_samples,
            "first_answers": clients.first_answers,
        },
        error_message,
        OSError,
        NoriaError,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
