"""The keys in the server. A type or group has no colon, so that names cannot collide."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Names:
    """The keys of one bus.

    `prefix`: of all of them. `partitions`: of the keys of events.
    """

    prefix: str
    partitions: int

    def main(self, type: str) -> str:
        """The stream of the events of a type that have no key."""
        return f"{self.prefix}:s:{type}"

    def partition(self, type: str, number: int) -> str:
        """The stream of the events of a type whose keys belong to this partition."""
        return f"{self.prefix}:s:{type}:{number}"

    def streams(self, type: str) -> list[str]:
        """All streams of a type, without those of its groups' retries."""
        partitions = (self.partition(type, number) for number in range(self.partitions))
        return [self.main(type), *partitions]

    def retry(self, type: str, group: str) -> str:
        """The stream of the events without a key that a group gets again."""
        return f"{self.prefix}:r:{type}:{group}"

    def leases(self, type: str, group: str) -> str:
        """The hash that says which consumer holds which partition."""
        return f"{self.prefix}:leases:{type}:{group}"

    def live(self, type: str, group: str) -> str:
        """The sorted set of the consumers whose leases are valid, by their end."""
        return f"{self.prefix}:live:{type}:{group}"

    def sharing(self, type: str, group: str) -> str:
        """The sorted set of the consumers among which the partitions are shared."""
        return f"{self.prefix}:sharing:{type}:{group}"

    def trim_lock(self, type: str) -> str:
        """The key that one worker at a time sets, which then trims the streams of the type."""
        return f"{self.prefix}:trim:{type}"

    @property
    def readers(self) -> str:
        """The sorted set of the consumers without a group, by the end of what is kept for them."""
        return f"{self.prefix}:readers"

    @property
    def reader(self) -> str:
        """What precedes such a consumer's name, in the key of the hash of its positions."""
        return f"{self.prefix}:reader:"

    @property
    def delayed(self) -> str:
        """The sorted set of the events that wait for a time, by that time."""
        return f"{self.prefix}:delayed"

    @property
    def counters(self) -> str:
        """The hash that counts what is in `delayed`: by type, and for retries by TYPE:GROUP."""
        return f"{self.prefix}:delayed-counts"

    @property
    def sequence(self) -> str:
        """The number of the last event in `delayed`."""
        return f"{self.prefix}:sequence"

    @property
    def types(self) -> str:
        """The set of all types."""
        return f"{self.prefix}:types"

    @property
    def keyed(self) -> str:
        """The set of the types that have had events with keys."""
        return f"{self.prefix}:keyed"

    @property
    def new(self) -> str:
        """The stream that says which types are new."""
        return f"{self.prefix}:new"

    @property
    def dead(self) -> str:
        """The stream of dead letters."""
        return f"{self.prefix}:dead"

    @property
    def settings(self) -> str:
        """The hash of what all programs must agree on."""
        return f"{self.prefix}:settings"

    @property
    def ids(self) -> str:
        """What precedes an event's id, in the key that remembers it."""
        return f"{self.prefix}:id:"
