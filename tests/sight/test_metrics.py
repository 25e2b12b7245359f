"""Metrics from observations: names, types, sums that never decrease, a bounded number of series."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("prometheus_client")

from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse_text

from noria.sight.metrics.exposition import write
from noria.sight.metrics.families import WorkerTotals
from noria.sight.metrics.readings import BOUNDS, SECOND, bucket_counts
from noria.sight.metrics.totals import MAX_LOOPS, Totals
from noria.sight.observation import (
    Block,
    ConnectionFigures,
    Distribution,
    ErrorFigures,
    LoopFigures,
    Observation,
    Place,
)
from support.bus_figures import BUS
from support.metrics_registry import registry_of_workers

MS = 1_000_000
OPEN = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3"


def loop(number=0, **figures):
    figures.setdefault("model", "epoll")
    return LoopFigures(number, **figures)


def totals_of(*observations):
    totals = Totals()
    for loops in observations:
        totals.add(Observation(pid=7, python="3.13.0", noria="1.0", loops=loops))
    return totals


def registry_of(*totals):
    return registry_of_workers(
        WorkerTotals(pid, True, "1.0", "3.13.0", each.loops, [BUS])
        for pid, each in enumerate(totals, 7)
    )


def value(totals, name, **labels):
    return registry_of(totals).get_sample_value(
        name, {"worker": "7", "loop": "0", "model": "epoll", **labels}
    )


FULL = {
    "busy": 3 * SECOND,
    "waiting": SECOND,
    "end": 4 * SECOND,
    "turns": 10,
    "polls": 5,
    "empty_polls": 4,
    "callbacks": 1,
    "steps": 2,
    "io": 3,
    "system_calls": {"waits": 4, "receives": 5, "empty_receives": 1, "bytes_in": 600},
    "turn": Distribution(3, 30 * MS, 20 * MS, [(5 * MS, 2), (20 * MS, 1)]),
    "tasks_alive": 8,
    "tasks_created": 9,
    "connections": [
        ConnectionFigures(5, unread=10, reading_paused_since=1),
        ConnectionFigures(6, closed=3, unread=99),
    ],
    "connections_opened": 2,
    "connections_open": 1,
    "blocks": [Block(1, 200 * MS), Block(2 * SECOND, 300 * MS, ended=False)],
    "errors": [ErrorFigures("KeyError", "'x'", Place("f", "a.py", 3), 4)],
}


def test_figures_become_samples_in_base_units():
    totals = totals_of([loop(**FULL)])
    for name, expected in {
        "noria_loop_utilization_ratio": 0.75,
        "noria_loop_busy_seconds_total": 3,
        "noria_loop_turns_total": 10,
        "noria_loop_blocks_total": 2,
        "noria_loop_blocked_seconds_total": 0.5,
        "noria_loop_blocked": 1,
        "noria_tasks": 8,
        "noria_tasks_created_total": 9,
        "noria_connections": 1,
        "noria_connections_opened_total": 2,
        "noria_received_bytes_total": 600,
        "noria_unread_bytes": 10,
        "noria_loop_turn_seconds_count": 3,
        "noria_loop_turn_seconds_sum": 0.03,
    }.items():
        assert value(totals, name) == expected, name
    assert value(totals, "noria_system_calls_total", call="receive") == 5
    assert value(totals, "noria_empty_system_calls_total", call="receive") == 1
    assert value(totals, "noria_loop_polls_total", result="event") == 1
    assert value(totals, "noria_events_total", kind="task_step") == 2
    assert value(totals, "noria_connections_paused", side="reading") == 1
    assert value(totals, "noria_exceptions_total", kind="callback") == 4
    assert value(totals, "noria_loop_turn_seconds_bucket", le="0.005") == 2
    assert value(totals, "noria_loop_turn_seconds_bucket", le="+Inf") == 3


def test_both_formats_are_valid_and_say_the_same():
    registry = registry_of(totals_of([loop(**FULL)]), totals_of([loop(model='a"b\\c\n')]))
    open_text, open_type = write(registry, OPEN)
    plain_text, plain_type = write(registry, "text/plain;version=0.0.4, */*")
    assert open_type.startswith("application/openmetrics-text; version=1.0.0")
    assert plain_type.startswith("text/plain; version=0.0.4")
    assert open_text.endswith(b"# EOF\n")

    def samples(families):
        return {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
        }

    assert samples(parse_open(open_text.decode())) == samples(parse_text(plain_text.decode()))
    assert write(registry, "")[1] == plain_type


def test_names_follow_the_rules_of_prometheus():
    """As promtool check metrics does: units, suffixes, help, no type in a name."""
    registry = registry_of(totals_of([loop(**FULL)]))
    names = set()
    for family in parse_text(write(registry, "")[0].decode()):
        # The parser names a counter without its suffix; writers add it again.
        assert family.name not in names
        names.add(family.name)
        assert re.fullmatch(r"noria(_[a-z]+)+", family.name), family.name
        assert family.documentation.endswith("."), family.name
        assert not re.search(r"_(counter|gauge|histogram|total|count|sum|bucket)$", family.name)
        assert not re.search(
            r"_(milli|micro|nano)?(ms|us|ns|milliseconds|kb|percent)\b", family.name
        )
        for sample in family.samples:
            suffix = sample.name.removeprefix(family.name)
            wanted = {"counter": {"_total"}, "histogram": {"_bucket", "_sum", "_count"}}
            assert suffix in wanted.get(family.type, {""}), sample.name
            # What a broker knows of its groups is the same in all workers.
            assert "worker" in sample.labels or family.name.startswith("noria_bus_group_")
    for family in parse_open(write(registry, OPEN)[0].decode()):
        if re.search("_(seconds|bytes|ratio)", family.name):
            assert family.name.endswith("_" + family.unit), family.name


def test_counters_continue_over_loops_that_follow_each_other():
    totals = totals_of(
        [loop(0, turns=10, turn=Distribution(1, MS, MS, [(MS, 1)]), tasks_alive=3)],
        [loop(0, turns=12), loop(1, turns=5)],
        [loop(1, turns=7)],
        [loop(2, turns=4)],  # it takes the number of loop 0
    )
    assert value(totals, "noria_loop_turns_total") == 16
    assert value(totals, "noria_loop_turns_total", loop="1") == 7
    assert value(totals, "noria_loop_turn_seconds_count") == 1
    assert value(totals, "noria_tasks") == 0


def test_a_counter_never_decreases():
    totals = totals_of([loop(turns=10)], [loop(turns=8)], [loop(turns=11)])
    assert value(totals, "noria_loop_turns_total") == 11


def test_an_observed_process_may_make_any_number_of_loops():
    totals = totals_of(*([loop(number, turns=1)] for number in range(500)))
    assert len(totals.loops) == 1
    assert value(totals, "noria_loop_turns_total") == 500
    closed = [loop(number, turns=1, closed=True, tasks_alive=3) for number in range(5)]
    totals = totals_of(closed, [*closed, loop(5, turns=1, tasks_alive=4)])
    assert value(totals, "noria_loop_turns_total") == 6
    assert value(totals, "noria_tasks") == 4
    totals = totals_of([loop(number, turns=1) for number in range(MAX_LOOPS + 20)])
    assert len(totals.loops) == MAX_LOOPS
    last = str(MAX_LOOPS - 1)
    assert value(totals, "noria_loop_turns_total", loop=last) == 21


def test_loops_of_different_models_are_told_apart():
    totals = totals_of([loop(0, turns=1), loop(1, model="select", turns=2)])
    assert value(totals, "noria_loop_turns_total") == 1
    assert value(totals, "noria_loop_turns_total", model="select") == 2


def test_blocks_that_last_and_blocks_that_are_forgotten_count_once():
    first, second = Block(10, 100 * MS, ended=False), Block(200 * MS, 400 * MS)
    totals = totals_of([loop(blocks=[first])])
    assert value(totals, "noria_loop_blocked") == 1
    totals.add(Observation(loops=[loop(blocks=[Block(7, 150 * MS), second])]))
    totals.add(Observation(loops=[loop(blocks=[second])]))
    assert value(totals, "noria_loop_blocks_total") == 2
    assert value(totals, "noria_loop_blocked_seconds_total") == 0.55
    assert value(totals, "noria_loop_blocked") == 0


def test_exceptions_at_the_same_place_are_added_up():
    def error(count, message):
        return ErrorFigures("KeyError", message, Place("f", "a.py", 3), count)

    totals = totals_of(
        [loop(errors=[error(1, "a")])], [loop(errors=[error(2, "a"), error(5, "b")])]
    )
    assert value(totals, "noria_exceptions_total", kind="callback") == 7


def test_utilization_is_that_of_the_last_seconds():
    def used(busy, end):
        return [loop(busy=busy * SECOND, waiting=(end - busy) * SECOND, end=end * SECOND)]

    totals = totals_of(used(0, 100), used(15, 120))
    assert value(totals, "noria_loop_utilization_ratio") == 0.75
    totals.add(Observation(loops=used(20, 125)))
    assert value(totals, "noria_loop_utilization_ratio") == 0.8
    totals.add(Observation(loops=used(20, 130)))
    assert value(totals, "noria_loop_utilization_ratio") == 0.5


def test_a_duration_is_never_counted_below_a_bound_that_it_exceeds():
    limits = [*BOUNDS, float("inf")]
    for bound in (1, 10_000, 10_001, 983_040, 1_000_000, 1_048_576, 99 * SECOND):
        counts = bucket_counts(Distribution(1, bound, bound, [(bound, 1)]))
        assert sum(counts) == 1
        assert limits[counts.index(1)] >= bound
        assert counts.index(1) == 0 or limits[counts.index(1) - 1] < bound
