"""Connected transports that perform every operation in random order, plain and with TLS."""

from __future__ import annotations

import asyncio
import random

import pytest

from support.fuzz.endpoints import Endpoint, end_anyhow, end_gracefully
from support.fuzz.harness import Violations, fuzz, run_checked
from support.fuzz.pairs import KINDS, connected, make_pair


async def play_pair(first: Endpoint, second: Endpoint, kind: str, tls: bool) -> None:
    """Connect two endpoints, let both act at random, and end the connection."""
    try:
        async with connected(first, second, kind, tls):
            await asyncio.gather(first.play(), second.play())
            end = end_anyhow if first.may_end else end_gracefully
            await end(first, second)
    finally:
        await first.side.close()
        await second.side.close()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_transports_keep_byte_and_callback_order(model: str, tls: bool) -> None:
    def one(rng: random.Random) -> None:
        async def main() -> None:
            violations = Violations()
            pairs = [
                make_pair(f"pair {n}", rng, violations, model, tls=tls, may_end=rng.random() < 0.4)
                for n in range(rng.randrange(1, 5))
            ]
            work = [play_pair(*pair, rng.choice(KINDS), tls) for pair in pairs]
            await violations.guard(asyncio.gather(*work), lambda: pairs)

        run_checked(main, model)

    fuzz(one, 10, 400)
