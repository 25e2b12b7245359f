"""A user's mistake told in a line, with a hint: never a traceback."""

import errno
import os
import socket

import click

from noria.errors import ModelUnavailable, NoriaError

UNREACHABLE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN)


class Problem(click.ClickException):
    """Something failed: shown as ``noria: message`` and a hint below, exit status 1."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def show(self, file: object = None) -> None:
        """Write it to standard error."""
        click.echo(f"noria: {self.message}", err=True)
        if self.hint:
            click.echo(f"       {self.hint}", err=True)


def place(host: str, port: int, unix: str | None) -> str:
    """An address as people write it: ``host:port``, ``[ipv6]:port`` or the path."""
    if unix is not None:
        return unix
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def explain(error: OSError | NoriaError) -> Problem:
    """Any error that no command has said more about."""
    if isinstance(error, ModelUnavailable):
        return Problem(
            _words(error), "'noria models' shows which work here; auto takes one of them"
        )
    if isinstance(error, NoriaError) or not isinstance(error, OSError):
        return Problem(_words(error))
    words = reason(error)
    return Problem(f"{os.fsdecode(error.filename)}: {words}" if error.filename else words)


def listening(error: OSError, host: str, port: int, unix: str | None) -> Problem:
    """Why the server could not listen, and what to try instead."""
    if isinstance(error, NoriaError):
        return explain(error)
    where = place(host, port, unix)
    if unix is not None:
        return _listening_unix(error, where)
    # Who makes the sockets says of a name that is not found what it could not do, and why.
    unfound = error if isinstance(error, socket.gaierror) else error.__cause__
    if isinstance(unfound, socket.gaierror):
        return Problem(f"cannot listen on {where}: {reason(unfound)}", "is the host name right?")
    if error.errno == errno.EADDRINUSE:
        return Problem(
            f"port {port} on {host} is in use",
            "choose another with --port, or --port 0 for any free one",
        )
    if error.errno in (errno.EACCES, errno.EPERM) and 0 < port < 1024:
        return Problem(
            f"no permission to listen on port {port}",
            "ports below 1024 need root or CAP_NET_BIND_SERVICE; choose another with --port",
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return Problem(
            f"cannot listen on {where}: this machine does not have that address",
            "--host 127.0.0.1 is this machine alone, --host 0.0.0.0 all its IPv4 addresses",
        )
    return explain(error)


def _listening_unix(error: OSError, where: str) -> Problem:
    if error.errno in (errno.EADDRINUSE, errno.EEXIST):
        return Problem(
            f"{where} exists already",
            "another server may be using it; remove the file, or choose another with --unix",
        )
    if error.errno == errno.ENOENT:
        return Problem(f"cannot listen on {where}: there is no such directory")
    if error.errno in (errno.EACCES, errno.EPERM):
        return Problem(f"cannot listen on {where}: no permission to make it")
    return Problem(f"cannot listen on {where}: {reason(error)}")


def connecting(error: OSError, host: str, port: int, unix: str | None, limit: float) -> Problem:
    """Why the connection could not be made, and what to try. *limit* is in seconds."""
    where = place(host, port, unix)
    said = f"cannot connect to {where}"
    if isinstance(error, socket.gaierror):
        return Problem(f"{said}: {reason(error)}", "is the host name right?")
    if isinstance(error, TimeoutError):
        return Problem(
            f"{said}: no answer within {limit:g} s"
            if error.errno is None
            else f"{said}: no answer",
            "is the host right? a firewall may be dropping the packets; --timeout gives more time",
        )
    if error.errno == errno.ECONNREFUSED:
        start = f"noria serve echo --unix {where}" if unix else f"noria serve echo --port {port}"
        return Problem(
            f"{said}: connection refused", f"nothing listens there; to start it: {start}"
        )
    if error.errno in UNREACHABLE:
        return Problem(f"{said}: {reason(error)}", "is the address right, and the network up?")
    if unix is not None and error.errno == errno.ENOENT:
        return Problem(
            f"{said}: there is no such socket", f"start: noria serve echo --unix {where}"
        )
    if unix is not None and error.errno == errno.ENOTSOCK:
        return Problem(f"{said}: it is not a socket")
    return Problem(f"{said}: {reason(error)}")


def reason(error: OSError) -> str:
    """The system's words for an error, without the number."""
    if isinstance(error, socket.gaierror):
        return (error.strerror or str(error)).lower()
    if error.errno and error.errno in errno.errorcode:
        words = os.strerror(error.errno)
        return words[0].lower() + words[1:]
    return one_line(error)


def _words(error: NoriaError) -> str:
    """What noria itself said; an error that is an OSError too would put its number before it."""
    return str(getattr(error, "strerror", None) or one_line(error))


def one_line(error: BaseException) -> str:
    """The message of an error, or its name where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
