"""Reading the records of a ring in parts of a limited size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from noria._core.recorder.reader import RingReader

RECORD_SIZE = 24  # bytes: struct Record in events.pxd
PART_RECORDS = 65_536


def new_records(reader: RingReader) -> Iterator[bytes]:
    """Yield the records that are new in a ring, in parts; the last one may be empty.

    Stops after a part with fewer than PART_RECORDS records: a loop that writes records faster than
    the caller takes them must not keep it here.
    """
    while True:
        records = reader.pull(PART_RECORDS)
        yield records
        if len(records) < PART_RECORDS * RECORD_SIZE:
            return
