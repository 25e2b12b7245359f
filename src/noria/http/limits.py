"""How much a client may ask for, and how slow it may be."""

from __future__ import annotations

from dataclasses import dataclass

KiB = 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, times in seconds, rates in bytes a second; counts are for one process."""

    header_size: int = 16 * KiB  # request line and fields together; above it 431
    fields: int = 100
    header_time: float = 10.0  # from the first byte of a head to its last, else 408
    idle: float = 30.0  # between two requests of a connection
    rate: int = 512  # the least a client must send or take, on average over `grace`
    grace: float = 20.0
    linger: float = 5.0  # how long an unread body is thrown away after the answer
    connections: int = 20_000
    per_client: int = 1_024  # connections from one address
    uploads: int = 256  # requests with a body that are being received
    body_held: int = 256 * KiB  # above it no more is received until the command has read
    pipelined: int = 16  # requests that wait for their turn; no more is received above it

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) <= 0:
                raise ValueError(f"the limit {name} must be above 0, not {getattr(self, name)}")
