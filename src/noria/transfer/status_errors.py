"""Statuses of responses as exceptions."""

from __future__ import annotations

import asyncio

import httpx

from noria.transfer import response_body
from noria.transfer.errors import BadResponse, RetryableError, TargetExists, TransferError
from noria.transfer.parsers import retry_after

RETRYABLE_STATUSES = frozenset({408, 423, 425, 429, 460, 500, 502, 503, 504})
"""Statuses after which the same request may succeed; 460 is tus' checksum mismatch."""

EXISTS_MESSAGE = "{} exists; --overwrite replaces it"

MAX_ERROR_TEXT_BYTES = 1200
MAX_ERROR_TEXT_CHARACTERS = 300
ERROR_TEXT_SECONDS = 5.0

HINTS = {
    401: "a login is required: --auth USER:PASSWORD or --token TOKEN",
    403: "this is not allowed",
    404: "there is no such file or directory",
    413: "the file is larger than the server accepts",
    507: "the server's disk or quota is full",
}

LOGIN_REFUSED = "the login was refused; check the user and password or the token"


async def raise_for_status(response: httpx.Response, *expected: int) -> None:
    """Raise RetryableError or TransferError unless the status is one of `expected`.

    The message has the server's own text, if the body is plain text.
    """
    status = response.status_code
    if status in expected:
        return
    message = f"the server says {status} {response.reason_phrase}".rstrip()
    login_hint = LOGIN_REFUSED if "authorization" in response.request.headers else HINTS[401]
    hint = login_hint if status == 401 else HINTS.get(status, "")
    if text := await _read_error_text(response) or hint:
        message += f": {text}"
    if status == 401 and login_hint not in message:
        message += f" ({login_hint})"
    if status in RETRYABLE_STATUSES:
        raise RetryableError(message, retry_after(response.headers.get("retry-after", "")))
    raise TransferError(message)


async def raise_if_retryable(response: httpx.Response) -> None:
    """Raise RetryableError if a HEAD should be repeated; not for 500, which may be permanent."""
    if response.status_code in RETRYABLE_STATUSES - {500}:
        await raise_for_status(response)


async def raise_for_upload_status(response: httpx.Response) -> None:
    """Raise TargetExists, TransferError or RetryableError unless the upload was accepted."""
    if response.status_code == 412:
        raise TargetExists(EXISTS_MESSAGE.format(response.url.path))
    await raise_for_status(response, 200, 201, 204)


async def _read_error_text(response: httpx.Response) -> str:
    """Return the beginning of a plain text body on one line; "" if there is none."""
    if not response.headers.get("content-type", "").startswith("text/plain"):
        return ""
    if response.is_closed:
        body = response.content
    else:
        try:
            async with asyncio.timeout(ERROR_TEXT_SECONDS):
                body = await response_body.read_start(response, MAX_ERROR_TEXT_BYTES)
        except (BadResponse, TimeoutError, httpx.TransportError):
            return ""
    words = " ".join(body[:MAX_ERROR_TEXT_BYTES].decode("utf-8", "replace").split())
    return "".join(c for c in words if c.isprintable())[:MAX_ERROR_TEXT_CHARACTERS]
