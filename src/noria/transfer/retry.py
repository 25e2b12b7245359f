"""Attempts that are repeated, and the reasons why they failed."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Awaitable, Callable
from typing import TypeVar

import httpx

from noria.transfer import connection_errors, response_body
from noria.transfer.errors import BadResponse, Exists, Failure, Passing
from noria.transfer.parsers import retry_after

T = TypeVar("T")

FIRST, LONGEST = 0.5, 30.0  # seconds between attempts

PASSING = frozenset({408, 423, 425, 429, 460, 500, 502, 503, 504})
"""Statuses after which the same request may go well; 460 is tus' own: the checksum was another."""

EXISTS = "{} exists; --overwrite replaces it"
DIRECTORY = '{} is a directory: end the URL in "/" to put files into it'

SENTENCE_BYTES = 1200
SENTENCE_SECONDS = 5.0

HINTS = {
    401: "it wants a login: --auth USER:PASSWORD or --token TOKEN",
    403: "it does not allow this",
    404: "there is no such file or directory",
    413: "it is larger than the server takes",
    507: "the server's disk or quota is full",
}

REFUSED = "the login was refused; is it the right one?"


async def persist(
    attempt: Callable[[], Awaitable[T]],
    retries: int,
    *,
    moved: Callable[[], int] = lambda: 0,
    tell: Callable[[str], None] = lambda _: None,
) -> T:
    """What `attempt` returns, tried again up to `retries` times in a row without `moved` growing.

    Only beyond what it was ever before does `moved` count: a server that gives and takes back the
    same bytes must not keep it going. Each time `tell` is given the reason, and in how many seconds
    it is tried again. Raises Failure with the last reason; at once for one that stays.
    """
    failed, most = 0, moved()
    while True:
        try:
            return await attempt()
        except (Passing, httpx.TransportError) as error:
            now = moved()
            failed = 1 if now > most else failed + 1
            most = max(most, now)
            said = reason(error)
            if failed > retries or connection_errors.lasting(error):
                raise Failure(said) from error
            after = max(error.after if isinstance(error, Passing) else 0.0, pause(failed))
            shown = f"{after:.0f}" if after >= 1 else f"{after:.1f}"
            tell(f"{said}; trying again in {shown} s ({failed} of {retries})")
            await asyncio.sleep(after)


def pause(failed: int) -> float:
    """Seconds to wait: twice as long each time, and never the same for all who lost a server."""
    return min(FIRST * 2.0 ** (failed - 1), LONGEST) * random.uniform(0.5, 1.0)


def reason(error: Exception) -> str:
    """The error in words, for a line."""
    if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
        return connection_errors.connecting(error)
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    if isinstance(cause := connection_errors.root(error), ssl.SSLError):
        return connection_errors.words(cause)
    return " ".join(str(error).split()).rstrip(".") or "the connection was lost"


async def check(response: httpx.Response, *good: int) -> None:
    """Returns if the status is one of `good`; else raises Passing or Failure with the reason.

    The server's own sentence is read from a text body (at most 300 characters of it).
    """
    status = response.status_code
    if status in good:
        return
    said = f"the server says {status} {response.reason_phrase}".rstrip()
    login = REFUSED if "authorization" in response.request.headers else HINTS[401]
    hint = login if status == 401 else HINTS.get(status, "")
    if words := await sentence(response) or hint:
        said += f": {words}"
    if status == 401 and login not in said:
        said += f" ({login})"
    if status in PASSING:
        raise Passing(said, retry_after(response.headers.get("retry-after", "")))
    raise Failure(said)


async def later(response: httpx.Response) -> None:
    """Raises Passing if a HEAD is to be asked again later; 500 may be all that it ever gets."""
    if response.status_code in PASSING - {500}:
        await check(response)


async def refused(response: httpx.Response) -> None:
    """Raises Exists, Failure or Passing unless a file, or the beginning of one, was taken."""
    if response.status_code == 412:
        raise Exists(EXISTS.format(response.url.path))
    await check(response, 200, 201, 204)


async def sentence(response: httpx.Response) -> str:
    """The server's own words, from the beginning of a text body; "" if there are none."""
    if not response.headers.get("content-type", "").startswith("text/plain"):
        return ""
    if response.is_closed:
        text = response.content
    else:
        try:
            async with asyncio.timeout(SENTENCE_SECONDS):
                text = await response_body.read_start(response, SENTENCE_BYTES)
        except (BadResponse, TimeoutError, httpx.TransportError):
            return ""
    words = " ".join(text[:SENTENCE_BYTES].decode("utf-8", "replace").split())
    return "".join(c for c in words if c.isprintable())[:300]
