"""TLS: a certificate for the run, and echo servers under a compiled load."""

from __future__ import annotations

import subprocess
from functools import partial

from harness import Unavailable

from rows.loads import exchange
from rows.row import Place, Row, Sample, server_command, serving


def certificate(at: Place) -> list[str]:
    """The options that give a server its certificate, which is made when it is first asked for."""
    cert, key = at.scratch / "cert.pem", at.scratch / "key.pem"
    if not cert.exists():
        words = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
        files = ["-subj", "/CN=localhost", "-keyout", str(key), "-out", str(cert)]
        try:
            subprocess.run([*words.split(), *files], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise Unavailable(f"no certificate: {error}") from None
    return ["--tls", str(cert), str(key)]


def echo(kind: str, loop: str, at: Place) -> Sample:
    """Messages of 1 KiB a second on 100 connections."""
    words = server_command(loop, kind, *certificate(at))
    with serving(words, at) as (pid, port):
        return exchange(port, "tls", "echo", 1024, at=at, pid=pid)


ROWS = (
    Row("TLS Protocol 1 KiB, 100", partial(echo, "protocol")),
    Row("TLS streams 1 KiB, 100", partial(echo, "streams")),
)
