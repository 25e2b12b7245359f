"""bench/bus.py: the ratios, and the payload."""

from __future__ import annotations

import json

import pytest
from buses import peer

import bus


def test_a_ratio_is_to_the_best_peer_of_the_same_round() -> None:
    def result(rate: float, p99: float) -> bus.Result:
        return {"events": rate * 2, "seconds": 2.0, "cpu": 1.0, "p99": p99}

    found = {
        ("redis handle", "noria"): {0: result(100, 0.001), 1: result(300, 0.002)},
        ("redis handle", "faststream-uvloop"): {0: result(50, 0.004), 1: result(60, 0.004)},
        ("redis handle", "faststream-asyncio"): {0: result(40, 0.001)},
    }
    peers = bus.ONE_BY_ONE
    assert bus.ratios(found, "redis handle", peers, "rate") == {0: 2.0, 1: 5.0}
    assert bus.ratios(found, "redis handle", peers, "p99") == {0: 1.0, 1: 0.5}
    assert bus.ratios(found, "redis handle", (bus.BATCH,), "rate") == {}


def test_the_payload_has_the_size_that_it_says() -> None:
    encoded = json.dumps(peer.payload(0), separators=(",", ":"))
    assert len(encoded) == peer.PAYLOAD_BYTES


def test_bad_options_end_with_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["bus.py", "--rounds", "0"])
    with pytest.raises(SystemExit) as ended:
        bus.main()
    assert ended.value.code == 2
