"""The Grafana dashboard: its JSON, and that it uses only metrics and labels that exist."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

pytest.importorskip("prometheus_client")

from noria.sight.grafana import dashboard
from noria.sight.metrics.families import WorkerTotals, families
from noria.sight.metrics.totals import Totals
from noria.sight.observation import LoopFigures, Observation
from support.bus_figures import BUS
from support.running import environment

FUNCTIONS = {"rate", "sum", "by", "max", "histogram_quantile", "increase", "label_values"}


@pytest.fixture(scope="module")
def board():
    return json.loads(dashboard())


@pytest.fixture(scope="module")
def samples():
    """The labels of each sample name."""
    totals = Totals()
    totals.add(Observation(loops=[LoopFigures(0, model="epoll")]))
    return {
        sample.name: set(sample.labels)
        for family in families([WorkerTotals(1, True, "1", "3", totals.loops, [BUS])])
        for sample in family.samples
    }


def queries(board):
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"], target["legendFormat"]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["definition"], ""


def test_each_query_uses_metrics_and_labels_that_exist(board, samples):
    used = set()
    for expression, legend in queries(board):
        names = set(re.findall(r"\bnoria_\w+", expression))
        assert names, expression
        assert names <= set(samples), expression
        used |= names
        labels = {"job", "instance"} | set.intersection(*(samples[name] for name in names))
        assert set(re.findall(r"(\w+)=~", expression)) <= labels, expression
        for group in re.findall(r"by \(([^)]*)\)", expression):
            assert set(group.split(", ")) <= labels, expression
        assert set(re.findall(r"{{(\w+)}}", legend)) <= labels, expression
        assert set(re.findall(r"(\w+) ?\(", expression)) <= FUNCTIONS, expression
        assert expression.count("(") == expression.count(")")
        # A counter is shown by its rate, a gauge by its value.
        for name, before in re.findall(r"(\w*)\(?(noria_\w+)", expression):
            counter = re.search("_(total|sum|count|bucket)$", before)
            assert not counter or name in ("rate", "increase"), expression
    assert len(used) > 25


def test_panels_do_not_overlap_and_have_what_grafana_requires(board):
    assert board["schemaVersion"] >= 36
    assert board["id"] is None
    cells = set()
    numbers = set()
    for panel in board["panels"]:
        assert panel["id"] not in numbers
        numbers.add(panel["id"])
        assert panel["type"] in ("row", "stat", "timeseries", "heatmap")
        position = panel["gridPos"]
        assert position["x"] + position["w"] <= 24
        for x in range(position["x"], position["x"] + position["w"]):
            for y in range(position["y"], position["y"] + position["h"]):
                assert (x, y) not in cells, panel["title"]
                cells.add((x, y))
        if panel["type"] != "row":
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert panel["description"].endswith(".")


def test_the_module_prints_it():
    command = [sys.executable, "-m", "noria.sight.grafana"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env=environment())
    assert printed.stdout == dashboard()
