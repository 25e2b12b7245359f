"""The rule of `noria compare`, on synthetic rounds whose differences and noise are known."""

import math
import random
import statistics as standard
from collections.abc import Callable

import pytest

from noria.compare.statistics import (
    SMALLEST_EFFECT,
    PairedRatio,
    Spread,
    best_group,
    paired_ratio,
    spread,
)

TRIALS = 600
DRIFT = 0.2
"""Standard deviation of the machine's speed between rounds, in natural logarithms."""


class Machine:
    """Makes rounds of several servers: drift between rounds, noise, and now and then a stall."""

    def __init__(self, seed: int, noise: float, *, stalls: float = 0.0) -> None:
        self.random = random.Random(seed)
        self.noise = noise
        self.stalls = stalls

    def rounds(self, count: int, *speeds: float) -> list[list[float]]:
        """Return `count` rounds of each server, of which `speeds` has the true speeds."""
        servers: list[list[float]] = [[] for _ in speeds]
        for _ in range(count):
            drift = self.random.gauss(0, DRIFT)
            for server, speed in zip(servers, speeds, strict=True):
                stall = 0.5 if self.random.random() < self.stalls else 1.0
                noise = self.random.gauss(0, self.noise)
                server.append(1000.0 * speed * stall * math.exp(drift + noise))
        return servers


def share(trial: Callable[[], bool], trials: int = TRIALS) -> float:
    return sum(trial() for _ in range(trials)) / trials


def claim(values: list[float], others: list[float]) -> str | None:
    ratio = paired_ratio(values, others)
    assert ratio is not None
    return ratio.claim()


# -- equal servers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("stalls", [0.0, 0.07])
@pytest.mark.parametrize("noise", [0.01, 0.05, 0.1, 0.3])
@pytest.mark.parametrize("rounds", [5, 7, 9])
def test_equal_servers_are_called_different_in_fewer_than_one_of_20(rounds, noise, stalls):
    machine = Machine(rounds, noise, stalls=stalls)

    def wrong() -> bool:
        return claim(*machine.rounds(rounds, 1.0, 1.0)) is not None

    assert share(wrong) < 0.05


@pytest.mark.parametrize("noise", [0.03, 0.1, 0.3])
@pytest.mark.parametrize("rounds", [5, 7, 9])
def test_the_fastest_of_eight_equal_servers_is_rarely_called_the_fastest(rounds, noise):
    machine = Machine(rounds, noise, stalls=0.03)

    def wrong() -> bool:
        servers = machine.rounds(rounds, *[1.0] * 8)
        return len(best_group({str(n): each for n, each in enumerate(servers)})) == 1

    assert share(wrong) < 0.05


@pytest.mark.parametrize("noise", [0.03, 0.1, 0.3])
def test_few_of_eight_equal_servers_are_called_slower_than_the_fastest(noise):
    machine = Machine(1, noise)

    def slower() -> int:
        servers = machine.rounds(7, *[1.0] * 8)
        return 8 - len(best_group({str(n): each for n, each in enumerate(servers)}))

    assert sum(slower() for _ in range(TRIALS)) / (7 * TRIALS) < 0.05


def test_processes_that_take_turns_show_the_luck_of_each():
    """Equal servers whose processes differ by 2%, as long as they live."""
    machine = Machine(8, 0.01)

    def slower(processes: int) -> float:
        found = 0
        for _ in range(TRIALS):
            servers = machine.rounds(7, *[1.0] * 8)
            for values in servers:
                luck = [math.exp(machine.random.gauss(0, 0.02)) for _ in range(processes)]
                for number in range(7):
                    values[number] *= luck[number % processes]
            found += 8 - len(best_group({str(n): each for n, each in enumerate(servers)}))
        return found / (7 * TRIALS)

    assert slower(1) > 0.05
    assert slower(2) < 0.01


# -- servers that differ ---------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0.02, 0.03, 0.04])
def test_a_difference_of_a_fifth_is_found(noise):
    machine = Machine(2, noise)
    assert share(lambda: claim(*machine.rounds(7, 1.2, 1.0)) == "higher") > 0.9
    assert share(lambda: claim(*machine.rounds(7, 1.0, 1.2)) == "lower") > 0.9
    assert share(lambda: claim(*machine.rounds(7, 1.0, 1.2)) == "higher") == 0.0


def test_more_rounds_find_it_in_more_noise():
    machine = Machine(3, 0.05)
    assert share(lambda: claim(*machine.rounds(9, 1.2, 1.0)) == "higher") > 0.95


@pytest.mark.parametrize("stalled", range(7))
def test_it_is_found_although_one_round_was_stalled_by_half(stalled):
    machine = Machine(4, 0.03)

    def found() -> bool:
        fast, slow = machine.rounds(7, 1.2, 1.0)
        fast[stalled] /= 2
        return claim(fast, slow) == "higher"

    assert share(found, 300) > 0.9


def test_pairing_removes_the_drift_between_rounds():
    fast = [120.0, 60.0, 180.0, 90.0, 240.0]
    slow = [value / 1.2 for value in fast]
    ratio = paired_ratio(fast, slow)
    assert ratio is not None
    assert ratio.median == pytest.approx(1.2)
    assert ratio.low == pytest.approx(1.2)
    assert ratio.claim() == "higher"
    # The same numbers in another order are not paired any more.
    assert claim(fast, slow[::-1]) is None


# -- the interval ----------------------------------------------------------------------------------


def test_the_interval_has_the_true_ratio_in_97_of_100():
    machine = Machine(5, 0.05)

    def has_it() -> bool:
        ratio = paired_ratio(*machine.rounds(7, 1.3, 1.0))
        assert ratio is not None
        return ratio.low <= 1.3 <= ratio.high

    assert 0.95 < share(has_it, 2000) < 0.99


def test_the_interval_follows_the_formula():
    logs = [0.30, 0.10, 0.20, 0.26, 0.16, 0.90, -0.50]
    ratio = paired_ratio([math.exp(log) for log in logs], [1.0] * 7)
    assert ratio is not None
    winsorized = [0.10, 0.10, 0.16, 0.20, 0.26, 0.30, 0.30]
    error = standard.stdev(winsorized) / (5 / 7 * math.sqrt(7))
    mean = (0.10 + 0.16 + 0.20 + 0.26 + 0.30) / 5
    assert math.log(ratio.low) == pytest.approx(mean - 3.298 * error)
    assert math.log(ratio.high) == pytest.approx(mean + 3.298 * error)
    assert ratio.median == pytest.approx(math.exp(0.20))
    assert ratio.rounds == 7


def test_the_two_orders_mirror_each_other():
    machine = Machine(6, 0.1)
    for rounds in (5, 6, 9, 12, 40):
        values, others = machine.rounds(rounds, 1.1, 1.0)
        there, back = paired_ratio(values, others), paired_ratio(others, values)
        assert there is not None
        assert back is not None
        assert there.low == pytest.approx(1 / back.high)
        assert there.median == pytest.approx(1 / back.median)
        assert there.low <= there.median <= there.high


def test_rounds_without_one_of_the_numbers_are_skipped():
    values = [2.0, None, 2.0, 2.0, 2.0, 2.0, 0.0]
    ratio = paired_ratio(values, [1.0, 1.0, None, 1.0, 1.0, 1.0, 1.0])
    assert ratio is None, "four rounds are too few"
    ratio = paired_ratio(values, [1.0] * 7)
    assert ratio == PairedRatio(2.0, 2.0, 2.0, 5)


def test_a_claim_needs_the_whole_interval_beyond_the_noise():
    assert PairedRatio(1.2, 1.1, 1.3, 7).claim() == "higher"
    assert PairedRatio(1.2, 1.1, 1.3, 7).claim(noise=1.08) == "higher"
    assert PairedRatio(1.2, 1.1, 1.3, 7).claim(noise=1.12) is None
    assert PairedRatio(1 / 1.2, 1 / 1.3, 1 / 1.1, 7).claim(noise=1.08) == "lower"
    assert PairedRatio(1 / 1.2, 1 / 1.3, 1 / 1.1, 7).claim(noise=1.12) is None
    barely = SMALLEST_EFFECT - 0.001
    assert PairedRatio(1.06, barely, 1.07, 7).claim() is None


# -- spread and groups -----------------------------------------------------------------------------


def test_spread():
    assert spread([3.0, None, 1.0, 8.0]) == Spread(3.0, 1.0, 8.0)
    assert spread([None, None]) is None
    assert spread([]) is None


def test_a_group_names_those_that_cannot_be_told_apart():
    rounds = {
        "slow": [50.0, 51.0, 49.0, 50.0, 50.0],
        "fast": [100.0, 102.0, 98.0, 101.0, 99.0],
        "near": [99.0, 100.0, 99.0, 103.0, 97.0],
        "unmeasured": [None] * 5,
        "once": [None, None, 98.0, None, None],
    }
    assert best_group(rounds) == ["fast", "near", "once"]
    assert best_group(rounds, best="lowest") == ["slow", "once"]
    assert best_group({"fast": rounds["fast"], "slow": rounds["slow"]}) == ["fast"]
    assert best_group({"unmeasured": [None]}) == []
