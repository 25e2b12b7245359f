"""Run other projects' own test suites on noria's event loop; `.ci/suites` starts this.

Each suite comes pinned (suites.toml) from the package index, is unpacked into a temporary folder and
runs unchanged, on noria's default model and on epoll. exceptions.toml lists the tests that fail
there, and why. The run fails if another test fails, and if a listed one passes.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import venv

import noria
from upstream_patterns import matches

HERE = pathlib.Path(__file__).resolve().parent
MODELS = ("auto", "epoll")
ORACLE = "asyncio"
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
COLUMNS = ("suite", "model", "passed", "failed", "skipped", "flaky", "unexpected", "seconds")

# Outcomes of one test, worst first: a test has several reports (setup, call, subtests, teardown).
SEVERITY = ("failed", "xpassed", "passed", "xfailed", "skipped")


class Unavailable(Exception):
    """A suite's source could not be had."""


def main() -> int:
    """Parse the arguments, run the suites, print a table; return the exit status."""
    tables = read("suites.toml")
    exceptions = read("exceptions.toml")
    arguments = parse(tuple(tables["suite"]))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the tests' processes, too
    models = arguments.model or ([ORACLE] if arguments.oracle else list(MODELS))
    work = pathlib.Path(arguments.work or tempfile.mkdtemp(prefix="noria-suites-"))
    rows: list[dict[str, object]] = []
    complaints: list[str] = []
    try:
        work.mkdir(parents=True, exist_ok=True)
        for name in arguments.only or tables["suite"]:
            suite = tables["suite"][name]
            say(f"{name}: {suite.get('sdist') or suite['debian']}")
            try:
                python = make_venv(work, suite["venv"], tables)
                source = unpack(work, name, suite, python)
            except Unavailable as problem:
                complaints.append(f"{name}: not run: {problem}")
                continue
            for model in models:
                run = Run(name, suite, model, python, source, exceptions.get(name, []), arguments)
                rows.append(run.row())
                complaints += run.complaints
    finally:
        if not arguments.work:
            shutil.rmtree(work, ignore_errors=True)
    print_table(rows)
    for complaint in complaints:
        print(complaint)
    return 1 if complaints else 0


def parse(names: tuple[str, ...]) -> argparse.Namespace:
    """The command's arguments."""
    parser = argparse.ArgumentParser(prog=".ci/suites", description=__doc__)
    parser.add_argument("--only", action="append", choices=names, help="run this suite (repeatable)")
    parser.add_argument("--model", action="append", help="run on this model (repeatable)")
    parser.add_argument(
        "--oracle", action="store_true", help="run on asyncio's own loop, to have its numbers"
    )
    parser.add_argument("-k", metavar="EXPRESSION", help="pytest's -k; lists are not checked then")
    parser.add_argument(
        "--work", metavar="DIR", help="a folder for downloads, environments and logs that is kept"
    )
    return parser.parse_args()


def read(name: str) -> dict[str, dict]:
    """The content of a TOML file beside this one."""
    return tomllib.loads((HERE / name).read_text())


def say(what: str) -> None:
    """Print a headline."""
    print(f"== {what}", flush=True)


# Getting what a suite needs.


def make_venv(work: pathlib.Path, name: str, tables: dict[str, dict]) -> pathlib.Path:
    """Make a virtual environment with noria and the suites' requirements; return its Python.

    Without pip: an environment that was made with these requirements is used again.
    """
    folder = work / f"venv-{name}-{PYTHON}"
    python = folder / "bin" / "python"
    needs = [*tables["venv"][name]["requirements"]]
    for suite in tables["suite"].values():
        if suite["venv"] == name:
            needs += suite.get("wheels", [])
    needs = sorted(set(needs))
    record = folder / "requirements.json"
    if record.exists() and json.loads(record.read_text()) == needs:
        return python
    venv.create(folder, clear=True, with_pip=True)
    command([python, "-m", "pip", "install", "-q", "--prefer-binary", *needs])
    (site,) = folder.glob("lib/python3*/site-packages")
    # The noria that runs this, built by the same Python, and nothing else from its environment.
    (site / "noria").symlink_to(pathlib.Path(noria.__file__).resolve().parent)
    (site / "upstream.pth").write_text(f"{HERE}\nimport upstream_loop\n")
    record.write_text(json.dumps(needs))
    return python


def unpack(work: pathlib.Path, name: str, suite: dict, python: pathlib.Path) -> pathlib.Path:
    """Download a suite's source and unpack it; return the folder that its tests run in."""
    downloads = work / "downloads"
    downloads.mkdir(exist_ok=True)
    archive = from_debian(downloads, suite) if "debian" in suite else from_index(downloads, suite, python)
    scratch = work / f"unpack-{name}"
    target = work / name
    for folder in (scratch, target):
        shutil.rmtree(folder, ignore_errors=True)
    with tarfile.open(archive) as tar:
        tar.extractall(scratch, filter="data")
    (root,) = scratch.iterdir()
    if "only" not in suite:
        root.rename(target)
    else:
        target.mkdir()
        for part in suite["only"]:
            (root / part).rename(target / part)
    shutil.rmtree(scratch, ignore_errors=True)
    pyproject = target / "pyproject.toml"
    if not (target / "pytest.ini").exists() and not (
        pyproject.exists() and "[tool.pytest" in pyproject.read_text()
    ):
        # Else pytest would take what it finds in a folder above.
        (target / "pytest.ini").write_text("[pytest]\n")
    return target


def from_index(downloads: pathlib.Path, suite: dict, python: pathlib.Path) -> pathlib.Path:
    """Download an sdist by pip."""
    name, version = suite["sdist"].split("==")
    archive = downloads / f"{name}-{version}.tar.gz"
    if not archive.exists():
        command(
            [python, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", name]
            + ["-d", downloads, suite["sdist"]]
        )
    return archive


def from_debian(downloads: pathlib.Path, suite: dict) -> pathlib.Path:
    """Download a source package's tarball by apt-get, from the mirrors that it is set up for."""
    package, release = suite["debian"].split("/")
    archive = next(downloads.glob(f"{package}_*.orig.tar.gz"), None)
    if archive is None:
        if shutil.which("apt-get") is None:
            raise Unavailable("its sdist has no tests, and Debian's source package needs apt-get")
        state = downloads / "apt"
        for folder in ("lists/partial", "cache/archives/partial"):
            (state / folder).mkdir(parents=True, exist_ok=True)
        options = ["-o", f"Dir::Etc::SourceList={state}/sources.list"]
        options += ["-o", "Dir::Etc::SourceParts=/dev/null", "-o", f"Dir::Cache={state}/cache"]
        options += ["-o", f"Dir::State::lists={state}/lists"]
        options += ["-o", f"APT::Sandbox::User={os.environ.get('USER', 'root')}"]
        for mirror in debian_mirrors():
            (state / "sources.list").write_text(
                "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] "
                f"{mirror} {release} main\n"
            )
            for step in (["update"], ["source", "--download-only", "--tar-only", package]):
                subprocess.run(
                    ["apt-get", "-q", *options, *step], cwd=downloads, capture_output=True
                )
            archive = next(downloads.glob(f"{package}_*.orig.tar.gz"), None)
            if archive is not None:
                break
        else:
            raise Unavailable(f"no Debian mirror that apt-get knows has {package} of {release}")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != suite["sha256"]:
        raise Unavailable(f"{archive.name} has SHA-256 {digest}, not the one in suites.toml")
    return archive


def debian_mirrors() -> list[str]:
    """Addresses of the package repositories that apt-get is set up for."""
    answer = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"],
        capture_output=True,
        text=True,
    )
    return list(dict.fromkeys(answer.stdout.split()))


def command(words: list[object]) -> None:
    """Run a command; raise Unavailable with what it printed if it fails."""
    answer = subprocess.run(
        [str(word) for word in words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if answer.returncode:
        raise Unavailable("\n".join(answer.stdout.splitlines()[-20:]))


# Running it.


class Run:
    """One suite on one model."""

    def __init__(
        self,
        name: str,
        suite: dict,
        model: str,
        python: pathlib.Path,
        source: pathlib.Path,
        exceptions: list[dict],
        arguments: argparse.Namespace,
    ):
        self.name, self.suite, self.model = name, suite, model
        self.python, self.source = python, source
        self.k = arguments.k
        self.complaints: list[str] = []
        listed = [one for one in exceptions if applies(one, model)]
        self.not_run = [one["test"] for one in listed if not one.get("run", True)]
        self.expected = [one for one in listed if one.get("run", True)]
        self.logs = source.parent / "logs"
        self.logs.mkdir(exist_ok=True)
        started = time.monotonic()
        tests = suite["tests"]
        self.outcomes, self.texts = self.pytest(tests, suite["workers"], "")
        self.recovered: list[str] = []
        self.unexpected: list[str] = []
        self.judge()
        self.seconds = round(time.monotonic() - started)

    def pytest(
        self, tests: list[str], workers: int, suffix: str
    ) -> tuple[dict[str, str], dict[str, str]]:
        """Run tests; return each one's outcome, and what pytest says of the failed ones."""
        stem = self.logs / f"{self.name}-{self.model}{suffix}"
        outcomes_file = stem.with_name(stem.name + ".jsonl")
        outcomes_file.write_text("")
        deselect_file = stem.with_name(stem.name + ".deselect.json")
        deselect_file.write_text(json.dumps(self.not_run))
        words = [str(self.python), str(HERE / "isolated.py")]
        words += [str(self.python), "-m", "pytest", "-p", "upstream_plugin", "-q", "-ra", "--tb=short"]
        words += ["--durations=15"]
        words += ["-o", "addopts=", "-p", "no:cacheprovider", "--rootdir=."]
        words += ["-n", str(workers)] if workers else ["-p", "no:xdist"]
        words += [*self.suite.get("args", []), *(["-k", self.k] if self.k else []), *tests]
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("PYTEST")
        }
        environment |= {
            "PATH": f"{self.python.parent}{os.pathsep}{os.environ['PATH']}",
            "NORIA_UPSTREAM_MODEL": self.model,
            "NORIA_UPSTREAM_DESELECT": str(deselect_file),
            "NORIA_UPSTREAM_OUTCOMES": str(outcomes_file),
            **self.suite.get("environment", {}),
        }
        with open(stem.with_name(stem.name + ".log"), "w") as log:
            process = subprocess.Popen(
                words,
                cwd=self.source,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                status = process.wait(self.suite["seconds"])
            except subprocess.TimeoutExpired:
                status = None
                self.complaints.append(
                    f"{self.name} on {self.model}: not finished after {self.suite['seconds']} s"
                )
            finally:
                # What the tests started and left behind, too.
                try:
                    os.killpg(process.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
                process.wait()
        outcomes: dict[str, str] = {}
        texts: dict[str, str] = collections.defaultdict(str)
        for line in outcomes_file.read_text().splitlines():
            report = json.loads(line)
            test = report["test"]
            outcomes[test] = min(
                outcomes.get(test, "skipped"), report["outcome"], key=SEVERITY.index
            )
            texts[test] += report["text"]
        # 0: all passed, 1: some failed, 5: none were selected.
        if status is not None and (status not in (0, 1, 5) or (status == 5 and not self.k)):
            tail = pathlib.Path(log.name).read_text(errors="replace").splitlines()[-30:]
            print("\n".join(tail))
            self.complaints.append(f"{self.name} on {self.model}: pytest ended with {status}")
        return outcomes, texts

    def judge(self) -> None:
        """Compare the outcomes with the list of exceptions."""
        failed = [test for test, outcome in self.outcomes.items() if outcome == "failed"]
        suspects = [test for test in failed if not self.is_listed(test)]
        if suspects and len(suspects) <= 20:
            # Many of these tests take for granted that the machine is theirs: alone, once more.
            again, _ = self.pytest([t for t in suspects], 0, "-again")
            self.recovered = [test for test in suspects if again.get(test) == "passed"]
        self.unexpected = [test for test in suspects if test not in self.recovered]
        for test in self.recovered:
            print(f"-- {self.name} on {self.model}: {test} failed, and passed when run again")
        for test in self.unexpected:
            print(f"-- {self.name} on {self.model}: {test}")
            print("\n".join(self.texts[test].splitlines()[-40:]))
            self.complaints.append(f"{self.name} on {self.model}: {test} failed")
        if self.k:
            return
        for one in self.expected:
            found = [test for test in self.outcomes if matches(one["test"], test)]
            if not found:
                self.complaints.append(
                    f"{self.name} on {self.model}: no test is called {one['test']} (exceptions.toml)"
                )
            for test in found:
                if self.outcomes[test] == "passed" and not one.get("flaky"):
                    self.unexpected.append(test)
                    self.complaints.append(
                        f"{self.name} on {self.model}: {test} passes: it is in exceptions.toml"
                    )

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


def applies(one: dict, model: str) -> bool:
    """Whether an exception holds for this model and this Python."""
    return model in one.get("models", [model]) and PYTHON in one.get("python", [PYTHON])


def print_table(rows: list[dict[str, object]]) -> None:
    """Print the rows, aligned."""
    lines = [COLUMNS, *(tuple(str(row[column]) for column in COLUMNS) for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(COLUMNS))]
    print()
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    print(flush=True)


if __name__ == "__main__":
    sys.exit(main())
