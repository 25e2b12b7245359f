"""The check of the log of `test_nothing_lost`: it fails when it must."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.handled import STORED_SECONDS, Handled

KEYS = ["a", "a", "a", None, None, None]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "handled"


def check(
    path: Path, *records: str, forgets: bool = False, concurrency: int = 1, stored_twice: int = 0
) -> None:
    """Check a log, the times of which are the numbers of the records unless they have some."""
    lines = []
    for number, record in enumerate(["forked 1", "forked 2", *records]):
        kind, *rest = record.split()
        lines.append(" ".join([kind, str(number), *rest]))
    path.write_text("\n".join(lines) + "\n")
    handled = Handled(path, KEYS, concurrency, forgets=forgets)
    try:
        handled.read()
        handled.check(stored_twice=stored_twice)
    finally:
        handled.close()


def runs(pid: int, *numbers: int) -> list[str]:
    """The records of handlers that run one after the other."""
    return [f"{kind} {pid} {number}" for number in numbers for kind in ("start", "done")]


def test_events_in_order_are_right(path: Path) -> None:
    check(path, *runs(1, 0, 3, 1, 4), *runs(2, 2, 5))


def test_a_worker_that_died_has_its_events_repeated_in_order(path: Path) -> None:
    check(path, *runs(1, 0, 1), "killed 1", *runs(2, 0, 1, 2), concurrency=2)
    with pytest.raises(AssertionError, match="1 more events were repeated"):
        check(path, *runs(1, 0, 1), "killed 1", *runs(2, 0, 1, 2), concurrency=1)


def test_an_event_before_an_earlier_one_of_its_key(path: Path) -> None:
    with pytest.raises(AssertionError, match="a: 1 started in 2 before 0 was done"):
        check(path, "start 1 0", "killed 1", *runs(2, 1, 0))
    check(path, "start 1 0", "killed 1", *runs(2, 0, 1))


def test_two_handlers_of_a_key_at_a_time(path: Path) -> None:
    with pytest.raises(AssertionError, match="beside"):
        check(path, *runs(1, 0), "start 1 1", "start 2 1", concurrency=9)
    with pytest.raises(AssertionError, match="beside"):
        check(path, "start 1 0", "start 1 0", concurrency=9)


def test_repeats_without_a_reason(path: Path) -> None:
    with pytest.raises(AssertionError, match="repeated"):
        check(path, *runs(1, 3), *runs(2, 3))
    with pytest.raises(AssertionError, match="repeated"):
        check(path, "cut", "killed 1", *runs(2, 3, 3, 3))
    check(path, *runs(1, 3), "cut", *runs(2, 3))
    check(path, *runs(1, 3), "broker stop", "broker started", *runs(2, 3))
    check(path, *runs(1, 3), "stalled 1", *runs(2, 3))
    check(path, *runs(1, 3), *runs(2, 3), stored_twice=1)


def test_what_a_killed_broker_forgets(path: Path) -> None:
    assert STORED_SECONDS < 1
    outage = ["broker kill", *runs(1, 3, 4), "broker started"]
    check(path, *outage, *runs(2, 3, 4), *runs(1, 3, 4), forgets=True, concurrency=2)
    with pytest.raises(AssertionError, match="repeated"):
        check(path, *runs(1, 3, 4), *outage, *runs(2, 4, 3, 3, 4), *runs(1, 3, 4, 3))
    # Handled long before the broker was killed.
    early = [*runs(1, 3, 4, 5), *runs(1, 0), "broker kill", "broker started", *runs(2, 3, 4, 5)]
    with pytest.raises(AssertionError, match="1 more events"):
        check(path, *early, forgets=True)
    early[early.index("broker started")] = "broker reset"
    check(path, *early, forgets=True)
