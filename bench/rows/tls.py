"""TLS rows: echo servers under a compiled load, with a certificate made for the run."""

from __future__ import annotations

import subprocess
from functools import partial

from harness import Unavailable

from rows.loads import exchange
from rows.row import Place, Row, Sample, one_shot, server_command, serving


def certificate(at: Place) -> list[str]:
    """Return a server's certificate options; creates the certificate on first use."""
    cert, key = at.scratch / "cert.pem", at.scratch / "key.pem"
    if not cert.exists():
        words = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
        files = ["-subj", "/CN=localhost", "-keyout", str(key), "-out", str(cert)]
        try:
            subprocess.run([*words.split(), *files], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise Unavailable(f"cannot create a certificate: {error}") from None
    return ["--tls", str(cert), str(key)]


@one_shot
def echo(kind: str, loop: str, at: Place) -> Sample:
    """Measure 1 KiB messages a second on 100 connections."""
    words = server_command(loop, kind, *certificate(at))
    with serving(words, at) as (pid, port):
        return exchange(port, "tls", "echo", 1024, at=at, pid=pid)


ROWS = (
    Row("TLS Protocol 1 KiB, 100", partial(echo, "protocol")),
    Row("TLS streams 1 KiB, 100", partial(echo, "streams")),
)
