"""Metrics in the text format 0.0.4 of Prometheus."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING

from noria.http.messages import Request, Response
from noria.http.server_state import ServerState

if TYPE_CHECKING:
    from noria.fileserver.file_events import FileEvents

BUCKETS = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0)  # upper bounds in seconds
METHODS = ("GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "MOVE", "MKCOL", "OPTIONS")


class Metrics:
    """The metrics of one process. Each worker has its own, with its pid as a label."""

    def __init__(self) -> None:
        self.responses: Counter[tuple[str, int]] = Counter()
        self.buckets = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0

    def count(
        self, request: Request | None, status: int, sent: int, seconds: float, peer: str
    ) -> None:
        method = request.method if request is not None else ""
        self.responses[method if method in METHODS else "other", status] += 1
        self.seconds += seconds
        bucket = next((at for at, bound in enumerate(BUCKETS) if seconds <= bound), len(BUCKETS))
        self.buckets[bucket] += 1

    def respond(self, state: ServerState, events: FileEvents | None = None) -> Response:
        """The response to /-/metrics."""
        worker = f'worker="{os.getpid()}"'
        lines: list[str] = []

        def add(name: str, kind: str, help_: str, value: int | float) -> None:
            lines.extend(
                (f"# HELP {name} {help_}", f"# TYPE {name} {kind}", f"{name}{{{worker}}} {value}")
            )

        name = "noria_http_answers_total"
        lines += [f"# HELP {name} Responses by method and status.", f"# TYPE {name} counter"]
        for (method, status), count in sorted(self.responses.items()):
            lines.append(f'{name}{{{worker},method="{method}",status="{status}"}} {count}')
        name = "noria_http_answer_seconds"
        lines += [f"# HELP {name} Time from the head of a request to the end of its response."]
        lines += [f"# TYPE {name} histogram"]
        total = 0
        for bound, count in zip((*BUCKETS, "+Inf"), self.buckets, strict=True):
            total += count
            lines.append(f'{name}_bucket{{{worker},le="{bound}"}} {total}')
        lines += [f"{name}_sum{{{worker}}} {self.seconds:.6f}", f"{name}_count{{{worker}}} {total}"]
        add("noria_connections", "gauge", "Open connections.", len(state.connections))
        add("noria_handshakes", "gauge", "TLS handshakes under way.", len(state.handshakes))
        add(
            "noria_uploads", "gauge", "Requests whose body is being received.", state.active_uploads
        )
        add(
            "noria_connections_total",
            "counter",
            "Connections accepted.",
            state.connections_accepted,
        )
        add(
            "noria_connections_refused_total",
            "counter",
            "Connections refused because of a limit.",
            state.connections_refused,
        )
        add("noria_received_bytes_total", "counter", "Bytes received.", state.bytes_received)
        add("noria_sent_bytes_total", "counter", "Bytes of response bodies sent.", state.bytes_sent)
        if events is not None:
            for name, kind, help_, value in (
                ("published_total", "counter", "Events the broker has.", events.published),
                ("waiting", "gauge", "Events that wait for the broker.", events.waiting),
                ("lost_total", "counter", "Events that were given up.", events.lost),
                (
                    "received_total",
                    "counter",
                    "Changes by other processes of this server.",
                    events.received,
                ),
            ):
                add(f"noria_file_events_{name}", kind, help_, value)
        headers = [("Content-Type", "text/plain; version=0.0.4; charset=utf-8")]
        return Response(200, headers, ("\n".join(lines) + "\n").encode())
