"""What the log of `killed_workers` must show: nothing lost, few repeated, keys in order."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

# Seconds after an acknowledgement within which a nats-server has stored it: it writes the state of
# a consumer 10 times a second (server/filestore.go, flushLoop), on a busy machine later.
STORED_SECONDS = 0.5


class Handled:
    """Follows the log while it is written, and checks it.

    `keys`: the key of each event by its number, None without. Events are numbered in the order in
    which they were emitted. `forgets`: whether the broker forgets acknowledgements when it is
    ended.

    An event is repeated if its handler starts again after it was done. At each moment a worker has
    at most `concurrency` events in flight: from their claim until the broker has confirmed their
    acknowledgement. What is repeated was in flight

    - in a worker when it died, once in its life; or
    - in a worker that lives when its connection broke, when the broker ended or answered late, or
      when the process stood still, once for each such fault in its life: its claims end before
      they are renewed or the acknowledgements arrive, or the broker, killed, has forgotten to whom
      it gave the events, and gives them to another worker, which may be faster; or
    - in the broker: a nats-server that is killed forgets the acknowledgements that it has not
      stored. These are the events handled within STORED_SECONDS before, and while it was away; if
      it is killed while it writes the file of a consumer, which it does in place, all of them. One
      that is stopped stores all, and drops what arrives until it closes the connections
      (server/server.go, Shutdown: shutdownJetStream); or
    - on the way to the broker: see `check`.
    """

    def __init__(self, path: Path, keys: list[str | None], concurrency: int, *, forgets: bool):
        self.keys = keys
        self.concurrency = concurrency
        self.forgets = forgets
        self.file = open(path, encoding="ascii")  # noqa: SIM115
        self.partial = ""
        # Of each key: its events in order; of each event: its place there.
        self.by_key: dict[str, list[int]] = defaultdict(list)
        self.place: dict[int, int] = {}
        for number, key in enumerate(keys):
            if key is not None:
                self.place[number] = len(self.by_key[key])
                self.by_key[key].append(number)
        # Of each key: how many of its first events are done.
        self.progress: Counter[str] = Counter()
        # By event: who has done it last, and when.
        self.done: dict[int, tuple[int, float]] = {}
        self.running: dict[int, set[int]] = defaultdict(set)
        self.dead: set[int] = set()
        # Faults of any worker's life, by worker.
        self.faults: Counter[int] = Counter()
        self.counts: Counter[str] = Counter()
        # From when to when the broker forgot acknowledgements, because it was ended.
        self.outages: list[list[float]] = []
        # By the worker that had handled them, and the one that did again.
        self.repeated: Counter[tuple[int, int]] = Counter()
        self.forgotten = 0
        # When the broker was killed last with the file of a consumer half written.
        self.reset = 0.0
        self.problems: list[str] = []

    def close(self) -> None:
        self.file.close()

    def read(self) -> int:
        """Read what is new; return the number of events that are done."""
        text = self.partial + self.file.read()
        *lines, self.partial = text.split("\n")
        for line in lines:
            kind, at, *rest = line.split()
            getattr(self, f"_{kind}")(float(at), *rest)
        return len(self.done)

    def _forked(self, at: float, worker: str) -> None:
        self.faults[int(worker)] += 0

    def _start(self, at: float, worker: str, event: str) -> None:
        pid, number = int(worker), int(event)
        if number in self.done:
            before, when = self.done[number]
            if when < self.reset or any(begin < when < end for begin, end in self.outages):
                self.forgotten += 1
            else:
                self.repeated[before, pid] += 1
        key = self.keys[number]
        if key is not None:
            self._check_order(key, pid, number)
        self.running[pid].add(number)

    def _check_order(self, key: str, pid: int, number: int) -> None:
        """No event starts before the earlier ones of its key were handled, and none beside it."""
        if self.place[number] > self.progress[key]:
            earlier = self.by_key[key][self.progress[key]]
            self.problems.append(f"{key}: {number} started in {pid} before {earlier} was done")
        for other, numbers in self.running.items():
            beside = [each for each in numbers if self.keys[each] == key]
            if beside and not self.counts["stall"]:
                self.problems.append(f"{key}: {number} started in {pid} beside {beside} in {other}")

    def _done(self, at: float, worker: str, event: str) -> None:
        pid, number = int(worker), int(event)
        self.running[pid].discard(number)
        self.done[number] = pid, at
        key = self.keys[number]
        if key is not None and self.place[number] == self.progress[key]:
            self.progress[key] += 1

    def _killed(self, at: float, worker: str) -> None:
        self.dead.add(int(worker))
        self.running.pop(int(worker), None)
        self.counts["kill"] += 1

    def _stalled(self, at: float, worker: str) -> None:
        self.faults[int(worker)] += 1
        self.counts["stall"] += 1

    def _cut(self, at: float) -> None:
        self.counts["cut"] += 1
        self._broken()

    def _slow(self, at: float) -> None:
        self.counts["slow"] += 1
        self._broken()

    def _broker(self, at: float, how: str) -> None:
        self.counts[f"broker {how}"] += 1
        if how == "started":
            if self.outages:
                self.outages[-1][1] = min(at, self.outages[-1][1])
            return
        if how == "reset":
            self.reset = at
            return
        self._broken()
        if self.forgets:
            begin = at - STORED_SECONDS if how == "kill" else at
            self.outages.append([begin, float("inf")])

    def _broken(self) -> None:
        for pid in self.faults:
            if pid not in self.dead:
                self.faults[pid] += 1

    def check(self, *, stored_twice: int) -> None:
        """Fail if something was not as it should be.

        `stored_twice`: how many events the broker may have twice, which were published again after
        a fault.
        """
        assert not self.problems, self.problems[:5]
        left = {
            pid: self.concurrency * (faults + (pid in self.dead))
            for pid, faults in self.faults.items()
        }
        repeated = dict(self.repeated)
        # To the worker that had handled them if it can be, otherwise to the one that did again.
        for which in (0, 1):
            for workers, count in repeated.items():
                charged = min(count, left[workers[which]])
                left[workers[which]] -= charged
                repeated[workers] -= charged
        more = sum(repeated.values())
        assert more <= stored_twice, f"{more} more events were repeated than were in flight"
