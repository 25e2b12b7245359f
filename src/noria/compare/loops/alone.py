"""Rows without a network: operations of peers.micro."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from noria.compare.loops.process import peer, sample_of
from noria.compare.loops.row import Place, Start, Subject


def operations(row: str, *, threads: bool = False) -> Start:
    """Return the start of a row of peers.micro. With `threads` it has both cores."""

    @contextlib.contextmanager
    def start(loop: str, place: Place) -> Iterator[Subject]:
        with peer("micro", place, loop, row, several_cores=threads) as process:
            yield Subject(
                lambda: sample_of(process.request(place.seconds, seconds=place.seconds)),
                process.pid,
                process.receive,
            )

    return start
