"""Limits on what a client may send and on how slow it may be."""

from __future__ import annotations

from dataclasses import dataclass

KiB = 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one process. Sizes are in bytes, times in seconds, rates in bytes a second."""

    # The request line and the fields together. Above it the response is 431.
    max_head_size: int = 16 * KiB
    max_fields: int = 100
    # From the first byte of a head to its last. Above it the response is 408.
    head_timeout: float = 10.0
    # Between two requests of a connection.
    idle_timeout: float = 30.0
    # What a client must send or accept at least, on average over `rate_window`.
    min_rate: int = 512
    rate_window: float = 20.0
    # How long the rest of a request body is discarded after an early response.
    linger_timeout: float = 5.0
    max_connections: int = 20_000
    # Connections from one address.
    max_per_client: int = 1_024
    # Requests whose body is being received.
    max_uploads: int = 256
    # Bytes of a body that the handler has not read. Above it reading is paused.
    max_body_buffer: int = 256 * KiB
    # Requests that wait for the response before theirs. At this number reading is paused.
    max_pipelined: int = 16

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) <= 0:
                raise ValueError(f"the limit {name} must be above 0, not {getattr(self, name)}")
