"""Errors as a command shows them: one line, a hint below it, and never a traceback."""

import errno
import os
import socket

import click

from noria.errors import BusError, ModelUnavailable, NoriaError, error_message, os_error_reason

INTERRUPTED_STATUS = 130  # as a shell reports a process that SIGINT ended
UNREACHABLE_ERRNOS = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN)


class CommandError(click.ClickException):
    """A command failed: shown as ``noria: message`` with a hint below. Exit status 1."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def show(self, file: object = None) -> None:
        """Write the message and the hint to standard error."""
        click.echo(f"noria: {self.message}", err=True)
        if self.hint:
            click.echo(f"       {self.hint}", err=True)


def format_address(host: str, port: int, unix: str | None) -> str:
    """Return ``host:port``, ``[ipv6]:port`` or the path of a Unix socket."""
    if unix is not None:
        return unix
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def command_error(error: OSError | NoriaError) -> CommandError:
    """Return the CommandError for an error that the command itself did not handle."""
    if isinstance(error, ModelUnavailable):
        return CommandError(
            error_message(error),
            "'noria models' lists the models that work here; --model auto chooses one",
        )
    if isinstance(error, BusError):
        return broker_error(error)
    if isinstance(error, NoriaError) or not isinstance(error, OSError):
        return CommandError(error_message(error))
    reason = os_error_reason(error)
    return CommandError(f"{os.fsdecode(error.filename)}: {reason}" if error.filename else reason)


def broker_error(error: BusError) -> CommandError:
    """The error for a broker that cannot be used: what is wrong, and what to do."""
    problem, _, hint = str(error).partition("; ")
    return CommandError(problem, hint) if hint else CommandError(problem)


def listen_error(error: OSError, host: str, port: int, unix: str | None) -> CommandError:
    """Return why the server cannot listen on an address, and what to try instead."""
    if isinstance(error, NoriaError):
        return command_error(error)
    where = format_address(host, port, unix)
    if unix is not None:
        return _listen_error_unix(error, where)
    # net/listening.py raises an OSError of its own from the resolver's.
    unresolved = error if isinstance(error, socket.gaierror) else error.__cause__
    if isinstance(unresolved, socket.gaierror):
        return CommandError(
            f"cannot listen on {where}: {os_error_reason(unresolved)}", "check the host name"
        )
    if error.errno == errno.EADDRINUSE:
        return CommandError(
            f"port {port} on {host} is in use",
            "choose another port with --port; --port 0 takes any free one",
        )
    if error.errno in (errno.EACCES, errno.EPERM) and 0 < port < 1024:
        return CommandError(
            f"no permission to listen on port {port}",
            "ports below 1024 need root or CAP_NET_BIND_SERVICE; choose another with --port",
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return CommandError(
            f"cannot listen on {where}: this machine does not have that address",
            "--host 127.0.0.1 listens for this machine only, --host 0.0.0.0 on all IPv4 addresses",
        )
    return command_error(error)


def _listen_error_unix(error: OSError, where: str) -> CommandError:
    if error.errno in (errno.EADDRINUSE, errno.EEXIST):
        return CommandError(
            f"{where} exists already",
            "another server may be using it; remove the file, or choose another with --unix",
        )
    if error.errno == errno.ENOENT:
        return CommandError(f"cannot listen on {where}: no such directory")
    if error.errno in (errno.EACCES, errno.EPERM):
        return CommandError(f"cannot listen on {where}: no permission to create it")
    return CommandError(f"cannot listen on {where}: {os_error_reason(error)}")


def connect_error(
    error: OSError, host: str, port: int, unix: str | None, timeout: float
) -> CommandError:
    """Return why a connection failed, and what to try. *timeout* is in seconds."""
    where = format_address(host, port, unix)
    message = f"cannot connect to {where}"
    if isinstance(error, socket.gaierror):
        return CommandError(f"{message}: {os_error_reason(error)}", "check the host name")
    if isinstance(error, TimeoutError):
        return CommandError(
            f"{message}: no answer within {timeout:g} s"
            if error.errno is None
            else f"{message}: no answer",
            "check the host; a firewall may drop the packets; --timeout allows more time",
        )
    if error.errno == errno.ECONNREFUSED:
        start = f"noria serve echo --unix {where}" if unix else f"noria serve echo --port {port}"
        return CommandError(
            f"{message}: connection refused", f"no server listens there; start one: {start}"
        )
    if error.errno in UNREACHABLE_ERRNOS:
        return CommandError(
            f"{message}: {os_error_reason(error)}", "check the address and the network"
        )
    if unix is not None and error.errno == errno.ENOENT:
        return CommandError(
            f"{message}: no such socket", f"start a server: noria serve echo --unix {where}"
        )
    if unix is not None and error.errno == errno.ENOTSOCK:
        return CommandError(f"{message}: it is not a socket")
    return CommandError(f"{message}: {os_error_reason(error)}")
