"""Idle connections: the cost of one message beside connections that send nothing."""

from __future__ import annotations

import time

import noria
from noria.compare.measure.child import ChildFailed
from noria.compare.measure.experiment import OUT_OF_TIME, Experiment, Row, ServerProcess
from noria.compare.measure.medians import merge_with_spread
from noria.compare.measure.rounds import Rounds
from noria.compare.measure.servers import Candidate, Servers, candidates
from noria.compare.statistics import MIN_ROUNDS

KEYS = ("model", "idle")
ONE_CONNECTION = "serves one connection at a time: an active one waits forever behind an idle one"


def steps(experiment: Experiment, models: list[str]) -> int:
    """Number of progress steps."""
    return experiment.settings.rounds * len(models)


def measure(experiment: Experiment, models: list[str]) -> list[Row]:
    """Return one row per model and number of idle connections.

    The time is the median round trip of one active connection, the CPU time that of the server. In
    each round a server is measured with all numbers, one after the other, so that they are paired.
    """
    settings = experiment.settings
    # Thousands of threads take long to start and to end: measure such models last.
    names = sorted(models, key=lambda model: "thread" in noria.info(model).limit)
    measured = candidates(names)
    with Servers(experiment, measured) as servers:
        ladder = Ladder(experiment)
        found, note = Rounds(experiment, measured).take(
            "idle connections",
            lambda candidate, number: ladder.climb(servers, candidate, number),
            ladder.leave_out,
        )
    rows: dict[str, list[Row]] = {}
    for candidate, each in found.items():
        model = candidate.model
        whole = [row for group in each for row in group if row["idle"] in ladder.counts]
        left_out = [
            _empty(model, idle, OUT_OF_TIME)
            for idle in settings.idle
            if not whole or idle not in ladder.counts
        ]
        rows[model] = merge_with_spread(whole + left_out, KEYS, settings.rounds)
        for row in rows[model]:
            if row["us_per_message"] is not None:
                row["note"] = "; ".join(filter(None, [row["note"], note]))
    return [row for model in models for row in rows[model]]


class Ladder:
    """The numbers of idle connections that one server is measured with, in ascending order.

    A number that a model has failed to reach is not tried again, because failing takes long. After
    the first round, the highest numbers are left out until the other rounds fit into the time.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.counts = experiment.settings.idle
        self.seconds = dict.fromkeys(self.counts, 0.0)
        self.failures: dict[tuple[str, int], str] = {}

    def climb(self, servers: Servers, candidate: Candidate, number: int) -> list[Row]:
        """Return the rows of one model in one round."""
        experiment, model = self.experiment, candidate.model
        rows: list[Row] = []
        try:
            with servers.running(candidate, number) as server:
                for idle in self.counts:
                    began = time.monotonic()
                    rows.append(self._row(server, model, idle))
                    if number == 0:
                        self.seconds[idle] += time.monotonic() - began
                self._close_idle(server)
        except ChildFailed as failed:
            rows += [_empty(model, idle, str(failed)) for idle in self.counts[len(rows) :]]
            experiment.stop_clients()  # and with them the idle connections
        return rows

    def leave_out(self, round_seconds: float) -> float:
        """Leave out the highest numbers that do not fit; at least the first two stay.

        `round_seconds` is the duration of the first round. Return that of a round without them.
        """
        rounds = min(MIN_ROUNDS, self.experiment.settings.rounds) - 1
        while len(self.counts) > 2 and rounds * round_seconds > self.experiment.time_left:
            round_seconds -= self.seconds[self.counts[-1]]
            self.counts = self.counts[:-1]
        return round_seconds

    def _row(self, server: ServerProcess, model: str, idle: int) -> Row:
        experiment, settings = self.experiment, self.experiment.settings
        if idle and noria.info(model).limit == "one":
            return _empty(model, idle, ONE_CONNECTION)
        if (model, idle) in self.failures:
            return _empty(model, idle, self.failures[model, idle])
        row = _empty(model, idle, "")
        try:
            limit = _open_idle(experiment, server, idle)
            if not limit:
                found, cost = experiment.load(server, connections=1, seconds=settings.idle_seconds)
                row["us_per_message"] = found["p50_us"]
                row["cpu_us_per_message"] = cost and cost.user_us + cost.kernel_us
                row["note"] = limit = server.refusals()
        except ChildFailed as failed:
            limit = server.refusals() or str(failed)
            row["note"] = limit
        if limit:
            row["note"] = self.failures[model, idle] = limit
        return row

    def _close_idle(self, server: ServerProcess) -> None:
        """Close the idle connections and wait until the server has closed its ends."""
        experiment = self.experiment
        experiment.request(experiment.reply_timeout, command="close_idle")
        until = time.monotonic() + experiment.settings.idle_timeout
        while server.stats()["open"] and time.monotonic() < until:
            time.sleep(0.002)


def _empty(model: str, idle: int, note: str) -> Row:
    return {
        "model": model,
        "idle": idle,
        "us_per_message": None,
        "cpu_us_per_message": None,
        "note": note,
    }


def _open_idle(experiment: Experiment, server: ServerProcess, idle: int) -> str:
    """Open connections until the server has accepted `idle`; return why it did not, or "".

    They open in batches: thousands at once would overflow the backlog, and would start thousands of
    threads at once on the model ``threaded``.
    """
    settings = experiment.settings
    until = time.monotonic() + settings.idle_timeout
    found = server.stats()
    while found["open"] < idle and not found["refused"]:
        if time.monotonic() > until:
            return f"{found['open']:,} of {idle:,} were accepted in {settings.idle_timeout:g} s"
        total = min(idle, found["open"] + settings.idle_batch)
        experiment.request(
            experiment.reply_timeout, command="open_idle", port=server.port, total=total
        )
        while time.monotonic() < until:
            found = server.stats()
            if found["open"] >= total or found["refused"]:
                break
            time.sleep(0.002)
    return server.refusals()
