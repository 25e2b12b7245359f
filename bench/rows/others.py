"""Rows for datagrams, sendfile, short connections and client connections."""

from __future__ import annotations

import sys
from dataclasses import replace

from harness import build_limit, serving_command

from noria.compare.loadgen.command import CpuTime
from rows.loads import run_compiled
from rows.row import (
    PYTHON_PEERS,
    UVLOOP,
    Place,
    Row,
    Sample,
    one_shot,
    run_and_parse,
    server_command,
    serving,
)

FILE_BYTES = 1 << 30  # as in peers/sendfile_server.py
# All datagrams in flight fit into the default receive buffer, so that none is dropped.
SOCKETS, DEPTH = 8, 8


@one_shot
def udp(loop: str, at: Place) -> Sample:
    """Measure echoed 512-byte datagrams a second."""
    with serving_command(server_command(loop, "udp"), at.server) as (pid, port):
        return run_compiled("udp_echo", port, SOCKETS, DEPTH, 512, at.seconds, at=at, pid=pid)


@one_shot
def sendfile(loop: str, at: Place) -> Sample:
    """Measure bytes a second sent from a file."""
    with serving(server_command(loop, "sendfile"), at) as (pid, port):
        found = run_compiled("sink", port, FILE_BYTES, at.seconds, at=at, pid=pid)
        return replace(found, value=found.value / 1e9)


@one_shot
def connects(loop: str, at: Place) -> Sample:
    """Measure connections accepted, answered and closed per second of server CPU time.

    The kernel sets up a connection on the core of the connecting process, so the load generator
    limits any fast server. For a server that is always busy, CPU time equals elapsed time.
    """
    with serving(server_command(loop, "protocol"), at) as (pid, port):
        found = run_compiled("connects", port, 64, at.seconds, at=at, pid=pid)
        return replace(found, value=found.value / (found.busy or 1.0))


@one_shot
def clients(loop: str, at: Place) -> Sample:
    """Measure messages a second of 100 clients in one process; the C server has the other core."""
    with serving_command([str(build_limit())], at.load) as (pid, port):
        words = [sys.executable, str(PYTHON_PEERS / "loop_client.py"), loop, str(port)]
        words += ["100", "1024", str(at.seconds)]
        echo = CpuTime(pid)
        echo.start()
        value, busy, waiting = run_and_parse(words, at.seconds + 30, {at.server})
        echo.stop()
        return Sample(value, busy, waiting, echo.waiting / at.seconds)


ROWS = (
    Row("UDP 512 B", udp, goal=1.35, against=UVLOOP),
    Row("sendfile 1 GiB", sendfile, unit="GB/s"),
    Row("connect, echo, close", connects, limit=True, driven=False),
    Row("clients 1 KiB, 100", clients),
)
