"""What the streams, subjects and consumers of noria are called in a NATS server.

With the default prefix ``noria``:

    stream           subjects                     holds
    noria            noria.e.PARTITION.TYPE       the events; PARTITION is ``_`` without a key
    noria-delayed    noria.d.PARTITION.TYPE       events whose delay is not over
    noria-dead       noria.dead                   dead letters
    noria-state      noria.s.>                    the settings and leases, the last value of each

    noria.k.TYPE     is not stored: the number of a partition that a publisher begins to use

Durable consumers of ``noria`` are named ``GROUP+PARTITION+TYPE``, the dots of the type as ``+``. If
that is too long for the server, the type is its SHA-256.
"""

from __future__ import annotations

import hashlib

# Characters of a consumer's name, which is the name of a directory of the server.
MAX_CONSUMER_NAME = 255
# The partition of the events without a key.
NO_KEY = "_"


class Names:
    """The names under one prefix, by which several applications can share a server."""

    def __init__(self, prefix: str):
        self.prefix = prefix
        self.events = prefix
        self.delayed = f"{prefix}-delayed"
        self.dead = f"{prefix}-dead"
        self.state = f"{prefix}-state"
        self.dead_subject = f"{prefix}.dead"
        self.settings_subject = f"{prefix}.s.settings"

    def event(self, type: str, partition: int | str) -> str:
        """Return the subject of the events of a type in a partition."""
        return f"{self.prefix}.e.{partition}.{type}"

    def delayed_event(self, type: str, partition: int | str) -> str:
        """Return the subject of the delayed events of a type in a partition."""
        return f"{self.prefix}.d.{partition}.{type}"

    def due(self, delayed: str) -> str:
        """Return the subject to which a delayed event goes when it is due."""
        return f"{self.prefix}.e.{delayed[len(self.prefix) + 3 :]}"

    def new_partition(self, type: str) -> str:
        """Return the subject on which publishers name the partitions that they begin to use."""
        return f"{self.prefix}.k.{type}"

    def lease(self, type: str, group: str) -> str:
        """Return the subject of the leases of a group."""
        return f"{self.prefix}.s.lease.{group}.{type}"

    def ack_floor(self, consumer: str) -> str:
        """Return the subject for what is known to be acknowledged of a durable consumer."""
        return f"{self.prefix}.s.floor.{consumer}"

    def consumer(self, type: str, group: str, partition: int | str) -> str:
        """Return the name of a group's durable consumer."""
        name = f"{group}+{partition}+{type.replace('.', '+')}"
        if len(name) > MAX_CONSUMER_NAME:
            name = f"{group}+{partition}+{hashlib.sha256(type.encode()).hexdigest()}"
        return name


def split_subject(subject: str) -> tuple[str, str]:
    """Return the partition and the type of an event's subject."""
    _, _, partition, type = subject.split(".", 3)
    return partition, type


def split_consumer(name: str) -> str | None:
    """Return the group of a durable consumer; None if it is none of noria's."""
    parts = name.split("+", 2)
    return parts[0] if len(parts) == 3 else None
