"""The noise of the machine: what is measured, and when it is called noisy."""

import os
import threading
import time

import pytest

from noria.compare.noise import NoiseMeter, noise_document, same_server, same_server_pair


class Measured(NoiseMeter):
    """A meter with given sums instead of measured ones."""

    def __init__(self, steal: int = 0, waited: float = 0.0, others: float = 0.0) -> None:
        super().__init__({0})
        ticks = os.sysconf("SC_CLK_TCK")
        self.seconds, self.waited_seconds, self.waited_known = 10.0, waited, True
        self.own_seconds = 4.0
        self.ticks = 10 * ticks, int((4.0 + others) * ticks), steal * ticks


def test_watching_counts_the_time_and_the_own_work():
    meter = NoiseMeter()
    with meter.watch(os.getpid()):
        until = time.monotonic() + 0.1
        while time.monotonic() < until:
            sum(range(1000))
    assert meter.seconds >= 0.1
    assert meter.own_seconds > 0
    assert meter.steal_share is None or 0 <= meter.steal_share <= 1
    assert meter.other_share is None or 0 <= meter.other_share <= 1
    assert meter.waited_share is None or meter.waited_share >= 0


def test_a_process_that_ends_meanwhile_raises_no_error():
    child = os.fork()
    if not child:
        threading.Event().wait(5)
        os._exit(0)
    meter = NoiseMeter()
    with meter.watch(child):
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert meter.own_seconds == 0


def test_a_quiet_machine_has_no_warning():
    pair = same_server_pair([100.0] * 7, [102.0, 101.0, 100.0, 99.0, 101.0, 101.0, 100.0])
    found = noise_document(Measured(), [pair, None])
    assert found["warning"] == ""
    assert found["noisy"] is False
    assert len(found["pairs"]) == len(found["ratios"]) == 1
    assert found["same_server"] == pytest.approx(1.01, abs=0.001)
    assert found["steal_share"] == 0
    assert same_server(found) == found["same_server"]


@pytest.mark.parametrize(
    ("meter", "words"),
    [
        (Measured(steal=1), "the hypervisor took 10% of the cores' time"),
        (Measured(waited=2.0), "the server waited for its core 20% of the time"),
        (Measured(others=3.0), "other processes used 30% of the cores"),
    ],
)
def test_a_disturbed_machine_has_a_warning(meter, words):
    found = noise_document(meter, [])
    assert found["noisy"] is True
    assert words in found["warning"]


def test_a_server_that_differs_from_itself_has_a_warning():
    slower = same_server_pair([80.0] * 5, [100.0] * 5, figure="throughput", column="cpu_us")
    assert slower is not None
    assert slower["column"] == "cpu_us"
    found = noise_document(None, [slower])
    assert found["same_server"] == pytest.approx(1.25)
    assert "the same server measured twice differed by 25%" in found["warning"]
    assert found["other_share"] is None


@pytest.mark.parametrize("noise", [None, {}, {"same_server": None}, {"same_server": "x"}])
def test_unknown_noise_is_none(noise):
    assert same_server(noise) == 1.0


def test_the_noise_of_a_place_is_that_of_its_pairs():
    pairs = [
        {"figure": "throughput", "connections": 1, "ratio": 1.02},
        {"figure": "throughput", "connections": 1, "ratio": 0.8},
        {"figure": "throughput", "connections": 100, "ratio": 1.1},
    ]
    found = {"pairs": pairs, "same_server": 1.25}
    assert same_server(found, figure="throughput", connections=1) == pytest.approx(1.25)
    assert same_server(found, figure="throughput", connections=100) == pytest.approx(1.1)
    assert same_server(found, figure="phases") == pytest.approx(1.25), "no pair of this place"
    assert same_server({"same_server": 1.3}, figure="phases") == 1.3
    assert same_server({"pairs": [{"ratio": None}, "x"]}) == 1.0
