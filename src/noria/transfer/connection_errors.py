"""Why a request failed: as a message, and whether another attempt may succeed."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator

import httpx

from noria.errors import os_error_reason
from noria.transfer.parsers import DEFAULT_PORTS

PERMANENT_NAME_ERRNOS = frozenset(
    getattr(socket, name)
    for name in ("EAI_NONAME", "EAI_NODATA", "EAI_ADDRFAMILY")
    if hasattr(socket, name)
)
"""Errors of getaddrinfo(3) that another attempt gets too; EAI_AGAIN is not one."""

NOT_TLS_REASONS = frozenset(
    {"WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"}
)
"""OpenSSL's reasons, by version, for data that is not a TLS record."""


def is_permanent(error: Exception) -> bool:
    """Whether another attempt would fail too: an unknown name, a certificate, no TLS."""
    if isinstance(error, (httpx.UnsupportedProtocol, httpx.LocalProtocolError)):
        return True
    cause = root_cause(error)
    if isinstance(cause, socket.gaierror):
        return cause.errno in PERMANENT_NAME_ERRNOS
    return isinstance(error, httpx.ConnectError) and _is_tls_error(cause)


def describe_http_error(error: Exception) -> str:
    """Return the message of an error of httpx, as part of a sentence."""
    if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
        return describe_connect_error(error)
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    if isinstance(cause := root_cause(error), ssl.SSLError):
        return _describe_cause(cause)
    return " ".join(str(error).split()).rstrip(".") or "the connection was lost"


def describe_connect_error(error: Exception) -> str:
    """Return why a connection failed: host, port and the system's reason."""
    message = f"cannot connect to {_host_and_port(error)}"
    if isinstance(error, httpx.TimeoutException):
        return f"{message}: no answer in time"
    return f"{message}: {_describe_cause(root_cause(error)) or 'no answer'}"


def _describe_cause(cause: BaseException) -> str:
    """Return the message of the system or of OpenSSL, without numbers and source lines."""
    if isinstance(cause, ssl.SSLCertVerificationError):
        reason = cause.verify_message.rstrip(".") or "verification failed"
        return f"its certificate is not trusted ({reason}); --ca FILE names certificates to trust"
    if isinstance(cause, ssl.SSLError):
        if cause.reason in NOT_TLS_REASONS:
            return "the server does not speak TLS on this port; try http:// instead of https://"
        return f"TLS failed: {(cause.reason or 'the connection ended').replace('_', ' ').lower()}"
    if isinstance(cause, OSError) and cause.errno:
        return os_error_reason(cause)
    return " ".join(str(cause).split())


def root_cause(error: BaseException) -> BaseException:
    """Return the error of the system or of OpenSSL that httpx wrapped, or the error itself."""
    found = error
    for each in _causes(error):
        if _is_tls_error(each) or isinstance(each, socket.gaierror):
            return each
        if isinstance(each, OSError) and each.errno:
            found = each
    return found


def _is_tls_error(error: BaseException) -> bool:
    """Whether TLS itself failed, and not because the connection was closed."""
    closed = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
    return isinstance(error, ssl.SSLError) and not isinstance(error, closed)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error, its causes and contexts, each once."""
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


def _host_and_port(error: Exception) -> str:
    """Return the address of the request: with a proxy, that of the server behind it."""
    try:
        url = error.request.url if isinstance(error, httpx.RequestError) else None
    except RuntimeError:  # the error came before there was a request
        url = None
    if url is None:
        return "the server"
    host = f"[{url.host}]" if ":" in url.host else url.host
    return f"{host}:{url.port or DEFAULT_PORTS.get(url.scheme)}"
