"""Thresholds from the command line and the environment; findings as text; which code is whose."""

from __future__ import annotations

import pytest

from noria.sight.findings import Finding, Thresholds, places, text, units
from noria.sight.findings.thresholds import number
from noria.sight.observation import Place

PLACE = Place("handle", "/app/server.py", 12, "    time.sleep(1)")
FINDING = Finding(
    "loop-blocked",
    "handle blocks the loop for 412 ms",
    ["the loop was blocked 3 times, at most 412 ms", "up to 40 events waited in the queue"],
    PLACE,
    "Use `await asyncio.sleep(...)`. " * 5,
    loop=0,
)


def test_values_have_units():
    assert number("50ms") == pytest.approx(0.05)
    assert number("1.5") == 1.5
    assert number(" 20 % ") == pytest.approx(0.2)
    assert number("2Mi") == 2 * 2**20
    assert number("2 min") == 120
    for wrong in ("", "ms", "-1", "1 parsec", "1e3", "nan"):
        with pytest.raises(ValueError, match="is not a value"):
            number(wrong)


def test_thresholds_are_changed_by_name():
    changed = Thresholds().changed(["block=50ms", "gc-share=30%"])
    assert changed == Thresholds(block=0.05, gc_share=0.3)
    with pytest.raises(ValueError, match="Did you mean slow-client"):
        Thresholds().changed(["slow_clients=1s"])
    with pytest.raises(ValueError, match="write NAME=VALUE"):
        Thresholds().changed(["block"])


def test_the_environment_comes_first():
    environment = {"NORIA_THRESHOLDS": "block=50ms, unread=3s,"}
    expected = Thresholds(block=0.2, unread=3)
    assert Thresholds.from_environment(environment, ["block=200ms"]) == expected
    assert Thresholds.from_environment({}) == Thresholds()
    with pytest.raises(ValueError, match="NORIA_THRESHOLDS: unknown threshold 'x'"):
        Thresholds.from_environment({"NORIA_THRESHOLDS": "x=1"})


def test_findings_as_text():
    shown = text.render([FINDING], 60)
    assert all(len(line) <= 60 for line in shown.splitlines())
    assert shown.splitlines()[0] == "1 finding"
    assert "   at handle (/app/server.py:12)" in shown
    assert "      time.sleep(1)" in shown
    assert text.render([]) == "no findings"
    assert text.one_line(FINDING).startswith("loop-blocked: handle blocks the loop for 412 ms at ")


def test_figures_as_words():
    assert [units.duration(ns) for ns in (850, 12_300, 412e6, 1.84e9, 12e9, 200e9, 7.3e12)] == [
        "850 ns",
        "12 µs",
        "412 ms",
        "1.8 s",
        "12 s",
        "3 min 20 s",
        "2 h 1 min",
    ]
    assert [units.size(n) for n in (200, 65536, 1.5 * 2**20)] == ["200 bytes", "64 KiB", "1.5 MiB"]
    assert units.share(0.534) == "53%"
    assert units.plural(1, "task") == "1 task"
    assert units.plural(2000, "task") == "2,000 tasks"


def test_whose_code_it_is():
    library = Place("get", "/venv/lib/python3.13/site-packages/aiohttp/client.py", 1)
    standard = Place("run", "/usr/lib/python3.13/asyncio/runners.py", 118)
    own = Place("recv", "/venv/lib/python3.13/site-packages/noria/aio/loop.py", 1)
    compiled = Place("write", "src/noria/_core/stream.pyx", 300)
    assert [places.is_program(each) for each in (PLACE, library, standard, own, compiled)] == [
        True,
        False,
        False,
        False,
        False,
    ]
    assert places.innermost([standard, PLACE, library, own]) == PLACE
    assert places.innermost([standard, library, own]) == library
    assert places.innermost([standard, own]) == own
    assert places.innermost([]) is None
    # A program in a folder that is named as Python.
    assert places.is_program(Place("main", "/home/me/python3/app/main.py", 1))
