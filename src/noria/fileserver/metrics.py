"""Counts for Prometheus, in its text format 0.0.4."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING

from noria.http.messages import Request, Response

if TYPE_CHECKING:
    from noria.http.server_state import ServerState

BOUNDS = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0)  # seconds
METHODS = ("GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "MOVE", "MKCOL", "OPTIONS")


class Metrics:
    """Of one process: each worker counts for itself and says which it is."""

    def __init__(self) -> None:
        self.answers: Counter[tuple[str, int]] = Counter()
        self.buckets = [0] * (len(BOUNDS) + 1)
        self.seconds = 0.0

    def count(
        self, request: Request | None, status: int, sent: int, seconds: float, peer: str
    ) -> None:
        method = request.method if request is not None else ""
        self.answers[method if method in METHODS else "other", status] += 1
        self.seconds += seconds
        place = next((at for at, bound in enumerate(BOUNDS) if seconds <= bound), len(BOUNDS))
        self.buckets[place] += 1

    def page(self, state: ServerState) -> Response:
        worker = f'worker="{os.getpid()}"'
        lines: list[str] = []

        def tell(name: str, kind: str, help_: str, value: int | float) -> None:
            lines.extend(
                (f"# HELP {name} {help_}", f"# TYPE {name} {kind}", f"{name}{{{worker}}} {value}")
            )

        name = "noria_http_answers_total"
        lines += [f"# HELP {name} Answers by method and status.", f"# TYPE {name} counter"]
        for (method, status), count in sorted(self.answers.items()):
            lines.append(f'{name}{{{worker},method="{method}",status="{status}"}} {count}')
        name = "noria_http_answer_seconds"
        lines += [f"# HELP {name} From the head of a request to the end of its answer."]
        lines += [f"# TYPE {name} histogram"]
        total = 0
        for bound, count in zip((*BOUNDS, "+Inf"), self.buckets, strict=True):
            total += count
            lines.append(f'{name}_bucket{{{worker},le="{bound}"}} {total}')
        lines += [f"{name}_sum{{{worker}}} {self.seconds:.6f}", f"{name}_count{{{worker}}} {total}"]
        tell("noria_connections", "gauge", "Open connections.", len(state.connections))
        tell("noria_handshakes", "gauge", "TLS handshakes under way.", len(state.handshakes))
        tell(
            "noria_uploads", "gauge", "Requests whose body is being received.", state.active_uploads
        )
        tell(
            "noria_connections_total",
            "counter",
            "Connections accepted.",
            state.connections_accepted,
        )
        tell(
            "noria_connections_refused_total",
            "counter",
            "Above a limit.",
            state.connections_refused,
        )
        tell("noria_received_bytes_total", "counter", "Bytes received.", state.bytes_received)
        tell(
            "noria_sent_bytes_total", "counter", "Bytes of answers' bodies sent.", state.bytes_sent
        )
        headers = [("Content-Type", "text/plain; version=0.0.4; charset=utf-8")]
        return Response(200, headers, ("\n".join(lines) + "\n").encode())
