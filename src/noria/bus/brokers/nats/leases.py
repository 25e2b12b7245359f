"""Which consumer of a group reads which partition: one small document for each group.

The document is the last message of a subject of the state stream. Each change is a compare-and-set
(Nats-Expected-Last-Subject-Sequence), so two consumers never own a partition in it. It has:

    members    of each consumer: a counter that it raises at each renewal, the seconds for which its
               leases last after it, and whether it is draining
    owners     of each partition: the name of a member, or null

No clocks are compared. A member is dead when its counter has not changed for its seconds by the
clock of the one who looks; it counts itself as the owner only until its seconds after it began its
last renewal, by its own clock, which is earlier.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
from typing import Any

from noria.bus.brokers.nats.connection import APIError, Link
from noria.bus.brokers.nats.durable import MESSAGE_NOT_FOUND, WRONG_LAST_SEQUENCE

EXPECTED_SEQUENCE = "Nats-Expected-Last-Subject-Sequence"
# Attempts of a compare-and-set beside others, and the longest pause between them in seconds.
MAX_ATTEMPTS = 50
CONFLICT_PAUSE = 0.02


class Leases:
    """The leases of one member.

    `owned`: the partitions that are this member's, if `valid`. `surplus`: how many of them it
    should give back, so that others have their share.
    """

    def __init__(self, stream: str, subject: str, member: str, seconds: float, count: int):
        self.stream = stream
        self.subject = subject
        self.member = member
        self.seconds = seconds
        self.count = count
        self.owned: frozenset[int] = frozenset()
        self.surplus = 0
        self.deadline = 0.0
        self.draining = False
        self.loop = asyncio.get_running_loop()
        self._members: frozenset[str] = frozenset()
        self._counter = 0
        # By member: its counter, and when it was seen first.
        self._seen: dict[str, tuple[int, float]] = {}

    def valid(self, now: float) -> bool:
        """Whether the leases last at this time of the loop's clock."""
        return now < self.deadline

    async def renew(self, link: Link, release: frozenset[int] = frozenset()) -> None:
        """Renew the leases, give back those of `release`, and take what is free.

        Raises BrokerUnavailable and APIError.
        """
        for _ in range(MAX_ATTEMPTS):
            started = self.loop.time()
            document, sequence = await self._read(link)
            self.observe(document)
            if not self._change(document, release):
                self._note(document, self.deadline)
                return
            if await self._write(link, document, sequence):
                self._note(document, started + self.seconds)
                return
            await asyncio.sleep(random.random() * CONFLICT_PAUSE)
        raise link.url.unavailable("the leases of the partitions change all the time")

    async def leave(self, link: Link) -> None:
        """Give back everything."""
        for _ in range(MAX_ATTEMPTS):
            document, sequence = await self._read(link)
            if self.member not in document["members"]:
                return
            del document["members"][self.member]
            owners = document["owners"]
            document["owners"] = [None if each == self.member else each for each in owners]
            if await self._write(link, document, sequence):
                self.owned = frozenset()
                return
            await asyncio.sleep(random.random() * CONFLICT_PAUSE)

    def observe(self, document: dict[str, Any]) -> bool:
        """Note who has renewed; return whether this member should renew now, for a change."""
        now = self.loop.time()
        members = document["members"]
        for name, (counter, _, _) in members.items():
            if self._seen.get(name, (None, 0.0))[0] != counter:
                self._seen[name] = (counter, now)
        for name in set(self._seen) - set(members):
            del self._seen[name]
        if frozenset(members) != self._members:
            return True
        free = None in document["owners"]
        return free and not self.draining and len(self.owned) < self._share(members)

    def _share(self, members: dict[str, Any]) -> int:
        working = sum(not draining for _, _, draining in members.values())
        return -(-self.count // max(1, working))

    def _change(self, document: dict[str, Any], release: frozenset[int]) -> bool:
        """Change the document as it should be; return whether there is something to write."""
        now = self.loop.time()
        members, owners = document["members"], document["owners"]
        me = self.member
        for name in [*members]:
            _, seconds, _ = members[name]
            if name != me and now - self._seen[name][1] > seconds:
                del members[name]
        for number, owner in enumerate(owners):
            if owner not in members or (owner == me and number in release):
                owners[number] = None
        if me not in members and (
            self.draining or (len(members) >= self.count and None not in owners)
        ):
            return False
        self._counter += 1
        members[me] = [self._counter, self.seconds, int(self.draining)]
        mine = owners.count(me)
        share = 0 if self.draining else self._share(members)
        for number in [number for number, owner in enumerate(owners) if owner is None]:
            if mine >= share:
                break
            owners[number] = me
            mine += 1
        return True

    def _note(self, document: dict[str, Any], deadline: float) -> None:
        members, owners = document["members"], document["owners"]
        self.owned = frozenset(n for n, owner in enumerate(owners) if owner == self.member)
        self.deadline = deadline
        self.surplus = max(0, len(self.owned) - self._share(members)) if self.owned else 0
        self._members = frozenset(members)

    async def _read(self, link: Link) -> tuple[dict[str, Any], int]:
        request = {"last_by_subj": self.subject}
        try:
            found = await link.call(f"STREAM.MSG.GET.{self.stream}", request)
        except APIError as error:
            if error.err_code != MESSAGE_NOT_FOUND:
                raise
            return {"members": {}, "owners": [None] * self.count}, 0
        message = found["message"]
        return json.loads(base64.b64decode(message["data"])), message["seq"]

    async def _write(self, link: Link, document: dict[str, Any], sequence: int) -> bool:
        return await write_if(link, self.subject, document, sequence)


async def write_if(link: Link, subject: str, document: dict[str, Any], sequence: int) -> bool:
    """Store a document if the last one of its subject has this sequence, 0 for none."""
    body = json.dumps(document).encode()
    [answer] = await link.exchange([(subject, body, {EXPECTED_SEQUENCE: str(sequence)})])
    if answer is None:
        raise link.missing_stream()
    result = json.loads(answer)
    if "error" not in result:
        return True
    error = APIError(result["error"])
    if error.err_code in WRONG_LAST_SEQUENCE:
        return False
    raise link.url.unavailable(f"JetStream: {error}")
