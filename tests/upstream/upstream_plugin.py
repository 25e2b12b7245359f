"""A pytest plugin: deselect tests, and write every test's outcome to a file.

NORIA_UPSTREAM_DESELECT names a JSON file with the patterns of tests that are not run;
NORIA_UPSTREAM_OUTCOMES the file to which each report is appended, one JSON object per line.
NORIA_UPSTREAM_QUIET names a logger that the suite's own runner silences.
"""

import json
import logging
import os
import sys

import pytest
from upstream_patterns import matches


def pytest_configure(config):
    if quiet := os.environ.get("NORIA_UPSTREAM_QUIET"):
        logging.getLogger(quiet).setLevel(logging.CRITICAL)
    if not hasattr(sys.modules["__main__"], "__file__"):  # pytest-xdist's workers have no such file
        sys.modules["__main__"].__file__ = pytest.__file__
    if not hasattr(config, "workerinput"):  # in a worker of pytest-xdist; its controller reports
        config.pluginmanager.register(Outcomes(os.environ["NORIA_UPSTREAM_OUTCOMES"]))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    with open(os.environ["NORIA_UPSTREAM_DESELECT"]) as file:
        patterns = json.load(file)
    left_out = [item for item in items if any(matches(one, item.nodeid) for one in patterns)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


class Outcomes:
    """Append reports to a file as they come, so that a run that dies leaves what it found."""

    def __init__(self, path):
        self.file = open(path, "a", buffering=1)  # noqa: SIM115

    def write(self, nodeid, outcome, text):
        json.dump({"test": nodeid, "outcome": outcome, "text": text}, self.file)
        self.file.write("\n")

    def pytest_runtest_logreport(self, report):
        outcome = report.outcome
        if hasattr(report, "wasxfail"):
            outcome = "xfailed" if outcome == "skipped" else "xpassed"
        elif report.when != "call" and outcome == "passed":
            return
        self.write(report.nodeid, outcome, report.longreprtext if report.failed else "")

    def pytest_collectreport(self, report):
        if report.failed:
            self.write(report.nodeid, "failed", report.longreprtext)

    def pytest_unconfigure(self):
        self.file.close()
