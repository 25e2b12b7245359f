"""Attempts that are repeated after a failure."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import httpx

from noria.transfer.connection_errors import describe_http_error, is_permanent
from noria.transfer.errors import RetryableError, TransferError

T = TypeVar("T")

FIRST_PAUSE_SECONDS = 0.5
MAX_PAUSE_SECONDS = 30.0


async def with_retries(
    attempt: Callable[[], Awaitable[T]],
    retries: int,
    *,
    progress: Callable[[], int] = lambda: 0,
    report: Callable[[str], None] = lambda _: None,
) -> T:
    """Return what `attempt` returns, after up to `retries` failures in a row without progress.

    `progress` returns the number of bytes transferred. Only a new maximum counts, so a server that
    sends and discards the same bytes does not keep it running. Each failure is given to `report`,
    with the pause before the next attempt. Raises TransferError with the last reason, at once if it
    is permanent.
    """
    failures, maximum = 0, progress()
    while True:
        try:
            return await attempt()
        except (RetryableError, httpx.TransportError) as error:
            now = progress()
            failures = 1 if now > maximum else failures + 1
            maximum = max(maximum, now)
            reason = describe_http_error(error)
            if failures > retries or is_permanent(error):
                raise TransferError(reason) from error
            minimum = error.retry_after if isinstance(error, RetryableError) else 0.0
            pause = max(minimum, pause_seconds(failures))
            shown = f"{pause:.0f}" if pause >= 1 else f"{pause:.1f}"
            report(f"{reason}; retrying in {shown} s ({failures} of {retries})")
            await asyncio.sleep(pause)


def pause_seconds(failures: int) -> float:
    """Return the pause after a failure: doubled each time, with jitter, so clients spread out."""
    longest = min(FIRST_PAUSE_SECONDS * 2.0 ** (failures - 1), MAX_PAUSE_SECONDS)
    return longest * random.uniform(0.5, 1.0)
