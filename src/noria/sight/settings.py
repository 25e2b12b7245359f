"""The settings of the agent."""

from __future__ import annotations

from dataclasses import dataclass

from noria.sight.ring_records import RECORD_SIZE

DEFAULT_BUFFER = 12 * 1024 * 1024  # bytes
MIN_BUFFER = 64 * 1024
MAX_BUFFER = (1 << 30) * RECORD_SIZE  # the largest capacity of a Recorder


@dataclass(frozen=True)
class Settings:
    """What the agent does. The first user of an agent determines them."""

    max_block: int = 100_000_000  # ns
    buffer: int = DEFAULT_BUFFER  # bytes of a ring
    socket: bool = True  # listen for `noria top`
    report_blocks: bool = True  # on standard error, while a loop is blocked

    @property
    def capacity(self) -> int:
        """The number of records of a ring: a power of two."""
        records = max(self.buffer // RECORD_SIZE, 1024)
        return int(1 << (records.bit_length() - 1))
