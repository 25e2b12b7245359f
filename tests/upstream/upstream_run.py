"""One suite on one model: run it, and compare its outcomes with the list of exceptions."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

from upstream_patterns import matches

HERE = pathlib.Path(__file__).resolve().parent
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"

# A test has several reports (setup, call, subtests, teardown); the worst is its outcome.
SEVERITY = ("failed", "xpassed", "passed", "xfailed", "skipped")
FAILURES = ("failed", "xpassed")

# Above this number, failures are not due to a busy machine: they are not run again, and one line
# of each is printed.
MAX_RERUN = 20


class Run:
    """One suite on one model.

    `row()` returns its line of the table, `complaints` has the reasons for which the command fails,
    `messages` the lines to print.
    """

    def __init__(
        self,
        name: str,
        suite: dict,
        model: str,
        python: pathlib.Path,
        source: pathlib.Path,
        exceptions: list[dict],
        k: str | None,
    ):
        self.name, self.suite, self.model = name, suite, model
        self.python, self.source, self.k = python, source, k
        self.complete = not k
        self.complaints: list[str] = []
        self.messages: list[str] = []
        self.recovered: list[str] = []
        self.unexpected: list[str] = []
        listed = [one for one in exceptions if applies(one, model)]
        self.not_run = [one["test"] for one in listed if not one.get("run", True)]
        self.expected = [one for one in listed if one.get("run", True)]
        self.logs = source.parent / "logs"
        self.logs.mkdir(exist_ok=True)
        started = time.monotonic()
        self.outcomes, self.texts = self.pytest(suite["tests"], suite["workers"], "")
        self.compare_outcomes()
        self.seconds = round(time.monotonic() - started)

    def complain(self, what: str) -> None:
        """Make the command fail for this reason."""
        self.complaints.append(f"{self.name} on {self.model}: {what}")

    def pytest(
        self, tests: list[str], workers: int, suffix: str
    ) -> tuple[dict[str, str], dict[str, str]]:
        """Run tests; return the outcome of each, and pytest's output for the failed ones."""
        stem = f"{self.name}-{self.model}{suffix}"
        log = self.logs / f"{stem}.log"
        outcomes = self.logs / f"{stem}.jsonl"
        outcomes.write_text("")
        deselect = self.logs / f"{stem}.deselect.json"
        deselect.write_text(json.dumps(self.not_run))
        python = str(self.python)
        words = [python, str(HERE / "upstream_network.py"), python, "-m", "pytest"]
        words += [
            "-p",
            "upstream_plugin",
            "-p",
            "no:cacheprovider",
            "-o",
            "addopts=",
            "--rootdir=.",
        ]
        words += ["-q", "-ra", "--tb=short", "--durations=15"]
        words += ["-n", str(workers)] if workers else ["-p", "no:xdist"]
        words += [*self.suite.get("args", []), *(["-k", self.k] if self.k else []), *tests]
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("PYTEST")
        }
        environment |= {
            "PATH": f"{self.python.parent}{os.pathsep}{os.environ['PATH']}",
            "NORIA_UPSTREAM_MODEL": self.model,
            "NORIA_UPSTREAM_DESELECT": str(deselect),
            "NORIA_UPSTREAM_OUTCOMES": str(outcomes),
            **self.suite.get("environment", {}),
        }
        status = run_group(words, self.source, environment, log, self.suite["seconds"])
        if status is None:
            self.complete = False
            self.complain(f"not finished after {self.suite['seconds']} s")
        # 0: all passed, 1: some failed, 5: none were selected
        elif status not in ((0, 1, 5) if self.k else (0, 1)):
            self.messages += log.read_text(errors="replace").splitlines()[-30:]
            self.complain(f"pytest ended with {status}")
        return read_outcomes(outcomes)

    def compare_outcomes(self) -> None:
        """Compare the outcomes with the list of exceptions."""
        failed = [test for test, outcome in self.outcomes.items() if outcome in FAILURES]
        suspects = [test for test in failed if not self.is_listed(test)]
        if 0 < len(suspects) <= MAX_RERUN:
            # Many of these tests rely on a fast machine: once more, one after the other.
            again, _ = self.pytest(suspects, 0, "-again")
            self.recovered = [test for test in suspects if again.get(test) == "passed"]
        self.unexpected = [test for test in suspects if test not in self.recovered]
        for test in self.recovered:
            self.messages.append(
                f"-- {self.name} on {self.model}: {test} failed, and passed when run again"
            )
        for test in self.unexpected:
            text = self.texts[test].splitlines()
            self.messages.append(f"-- {self.name} on {self.model}: {test}")
            self.messages += text[-40:] if len(suspects) <= MAX_RERUN else text[-1:]
            self.complain(f"{test} failed")
        if self.complete:
            self.check_list()

    def check_list(self) -> None:
        """Complain of exceptions that match no test, or one that passes."""
        for one in self.expected:
            found = [test for test in self.outcomes if matches(one["test"], test)]
            if not found:
                self.complain(f"{one['test']} in exceptions.toml matches no test")
            if not one.get("flaky"):
                for test in found:
                    if self.outcomes[test] == "passed":
                        self.unexpected.append(test)
                        self.complain(f"{test} in exceptions.toml passes")

    def is_listed(self, test: str) -> bool:
        """Whether the test is expected to fail."""
        return any(matches(one["test"], test) for one in self.expected)

    def row(self) -> dict[str, object]:
        """The line of the table."""
        count = collections.Counter(self.outcomes.values())
        return {
            "suite": self.name,
            "model": self.model,
            "passed": count["passed"] + count["xfailed"],
            "failed": count["failed"] + count["xpassed"],
            "skipped": count["skipped"],
            "flaky": len(self.recovered),
            "unexpected": len(self.unexpected),
            "seconds": self.seconds,
        }


def run_group(
    words: list[str],
    folder: pathlib.Path,
    environment: dict[str, str],
    log: pathlib.Path,
    seconds: int,
) -> int | None:
    """Run a command with its output in `log`; return its exit status, None if it took too long.

    Whatever it started ends with it.
    """
    if stopped.is_set():
        raise InterruptedError
    with open(log, "w") as output:
        process = subprocess.Popen(
            words,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    running.add(process.pid)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        kill(process.pid)
        running.discard(process.pid)
        process.wait()


# The process groups of what runs, and whether more may be started.
running: set[int] = set()
stopped = threading.Event()


def stop() -> None:
    """Kill all that runs, and start nothing more."""
    stopped.set()
    for group in list(running):
        kill(group)


def kill(group: int) -> None:
    """Kill a process group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def read_outcomes(file: pathlib.Path) -> tuple[dict[str, str], dict[str, str]]:
    """Read what upstream_plugin wrote: each test's outcome, and the text of its failures."""
    outcomes: dict[str, str] = {}
    texts: dict[str, str] = collections.defaultdict(str)
    for line in file.read_text().splitlines():
        report = json.loads(line)
        test, outcome = report["test"], report["outcome"]
        outcomes[test] = min(outcomes.get(test, "skipped"), outcome, key=SEVERITY.index)
        texts[test] += report["text"]
    return outcomes, texts


def applies(one: dict, model: str) -> bool:
    """Whether an exception holds for this model and this Python."""
    return model in one.get("models", [model]) and PYTHON in one.get("python", [PYTHON])
