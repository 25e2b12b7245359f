"""Why a connection failed: in words, and whether another attempt may go well."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator

import httpx

from noria.transfer.parsers import PORTS

NO_NAME = frozenset(
    getattr(socket, name)
    for name in ("EAI_NONAME", "EAI_NODATA", "EAI_ADDRFAMILY")
    if hasattr(socket, name)
)
"""Answers of getaddrinfo(3) that stay the same: EAI_AGAIN is another matter."""

NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"})
"""OpenSSL's reasons, by version, when words come in place of a TLS record."""


def lasting(error: Exception) -> bool:
    """Whether it stays so: a name that nobody has, a certificate, a port without TLS."""
    if isinstance(error, (httpx.UnsupportedProtocol, httpx.LocalProtocolError)):
        return True
    cause = root(error)
    if isinstance(cause, socket.gaierror):
        return cause.errno in NO_NAME
    return isinstance(error, httpx.ConnectError) and _of_tls(cause)


def connecting(error: Exception) -> str:
    """What to say of a connection that did not come about: host, port and the system's reason."""
    said = f"cannot connect to {_place(error)}"
    if isinstance(error, httpx.TimeoutException):
        return f"{said}: no answer in time"
    return f"{said}: {words(root(error)) or 'no answer'}"


def words(cause: BaseException) -> str:
    """An error of the system or of OpenSSL without numbers and places in somebody's source."""
    if isinstance(cause, ssl.SSLCertVerificationError):
        why = cause.verify_message.rstrip(".") or "its certificate could not be verified"
        return f"its certificate is not trusted ({why}); --ca FILE names certificates to trust"
    if isinstance(cause, ssl.SSLError):
        if cause.reason in NOT_TLS:
            return "it does not speak TLS there; is it http:// in place of https://?"
        return f"TLS failed: {(cause.reason or 'the connection ended').replace('_', ' ').lower()}"
    if isinstance(cause, socket.gaierror):
        return (cause.strerror or str(cause)).lower()
    if isinstance(cause, OSError) and cause.errno:
        text = os.strerror(cause.errno)
        return text[0].lower() + text[1:]
    return " ".join(str(cause).split())


def root(error: BaseException) -> BaseException:
    """The system's own error beneath those of the libraries, or the error itself."""
    found = error
    for each in _chain(error):
        if _of_tls(each) or isinstance(each, socket.gaierror):
            return each
        if isinstance(each, OSError) and each.errno:
            found = each
    return found


def _of_tls(error: BaseException) -> bool:
    """An error that TLS itself found; that the other end was gone is another matter."""
    gone = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
    return isinstance(error, ssl.SSLError) and not isinstance(error, gone)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        each = waiting.pop(0)
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        if isinstance(each, BaseExceptionGroup):  # several addresses were tried
            waiting += each.exceptions
        if next := each.__cause__ or each.__context__:
            waiting.append(next)


def _place(error: Exception) -> str:
    """The host and port that were asked; with a proxy, those that it was to ask."""
    try:
        url = error.request.url if isinstance(error, httpx.RequestError) else None
    except RuntimeError:  # it came before there was a request
        url = None
    if url is None:
        return "the server"
    host = f"[{url.host}]" if ":" in url.host else url.host
    return f"{host}:{url.port or PORTS.get(url.scheme)}"
