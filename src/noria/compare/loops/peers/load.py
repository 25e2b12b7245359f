"""The load on the servers: python -m noria.compare.loops.peers.load [CORE].

One process for the whole run. Each line of input has a "command", and gets one line as the reply.
Connections stay open between the measurements of one server.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

from noria.compare.loadgen.command import CpuTime
from noria.compare.loadgen.descriptor_limit import raise_descriptor_limit
from noria.compare.loadgen.http import first_response
from noria.compare.loadgen.load import OpenLoad, open_idle
from noria.compare.loops.peers.common import pin, reason
from noria.compare.loops.peers.tls_load import TlsLoad
from noria.compare.measure.child import Message, die_with_parent, serve_requests
from noria.errors import NoriaError

HOST = "127.0.0.1"
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
ENDED_CONNECTIONS = 3
CONNECT_SECONDS = 5.0
SETTLE_SECONDS = 0.02
ATTEMPTS = 4


def end_connections(address: Any, family: int = socket.AF_INET) -> None:
    """Open and close a few connections to a server, as any server has seen soon.

    glibc maps and unmaps each block above 128 KiB (M_MMAP_THRESHOLD, mallopt(3)), such as a receive
    buffer, until one is freed, for example at the end of a stream; it then raises the threshold. A
    loop that allocates a buffer per recv(2) is several times slower before that.
    """
    for _ in range(ENDED_CONNECTIONS):
        with socket.socket(family) as client:
            client.settimeout(CONNECT_SECONDS)
            client.connect(address)


class Load(Protocol):
    """Open connections that can load a server."""

    def run(
        self,
        seconds: float,
        warmup: float,
        *,
        at_start: Callable[[], object],
        at_end: Callable[[], object],
    ) -> Any: ...

    def close(self) -> None: ...


class Loads:
    """The commands. `name` is that of the measured process."""

    def __init__(self) -> None:
        self.loads: dict[str, tuple[Load, int]] = {}
        self.idle: dict[str, list[Any]] = {}

    def open(self, name: str, kind: str, port: int, pid: int, **options: Any) -> Message:
        """Connect to a server: `kind` is "echo", "tls" or "http"."""
        self.loads[name] = self._open(kind, port, options), pid
        return {}

    def _open(self, kind: str, port: int, options: dict[str, Any]) -> Load:
        if kind == "tls":
            return TlsLoad(HOST, port, **options)
        if kind == "echo":
            return OpenLoad(HOST, port, **options)
        response, expected = first_response(HOST, port, REQUEST)
        return OpenLoad(
            HOST, port, request=REQUEST, expected=expected, reply_size=len(response), **options
        )

    def run(self, name: str, seconds: float, warmup: float, cpu_time: bool) -> Message:
        """Measure messages a second, with `cpu_time` a second of the server's CPU time."""
        if name not in self.loads:  # another process had them, and did not reply in time
            raise ConnectionError("the load was restarted, which closed its connections")
        load, pid = self.loads[name]
        server, own = CpuTime(pid), CpuTime(os.getpid())

        def start() -> None:
            own.start()
            server.start()

        def stop() -> None:
            server.stop()
            own.stop()

        for _ in range(ATTEMPTS):
            result = load.run(seconds, warmup, at_start=start, at_end=stop)
            if result.messages:
                break
            seconds *= 2  # other processes may have had the server's core all the time
        else:
            raise ConnectionError("no message came back")
        used, passed = server.user + server.kernel, result.seconds
        if cpu_time and used <= 0:
            raise ConnectionError("the system does not report the server's CPU time")
        return {
            "value": result.messages / (used if cpu_time else passed),
            "busy": used / passed,
            "waiting": server.waiting / passed,
            "load_waiting": own.waiting / passed,
        }

    def end_connections(self, port: int) -> Message:
        """Open and close a few connections: see end_connections()."""
        end_connections((HOST, port))
        time.sleep(SETTLE_SECONDS)
        return {}

    def open_idle(self, name: str, port: int, count: int) -> Message:
        """Open connections that send nothing; reply with the number of all of them."""
        held = self.idle.setdefault(name, [])
        held.append(open_idle(HOST, port, count))
        return {"idle": sum(map(len, held)), "ended": sum(some.ended() for some in held)}

    def close(self, name: str) -> Message:
        """Close the connections to the server of a loop."""
        load = self.loads.pop(name, None)
        for each in ([load[0]] if load else []) + self.idle.pop(name, []):
            each.close()
        return {}


def main(core: str = "") -> int:
    """Run until the end of the input; return the exit status."""
    die_with_parent()
    pin(core)
    raise_descriptor_limit()
    loads = Loads()
    serve_requests(
        {
            "open": loads.open,
            "run": loads.run,
            "end_connections": loads.end_connections,
            "open_idle": loads.open_idle,
            "close": loads.close,
        },
        reason,
        OSError,
        NoriaError,
        ValueError,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
