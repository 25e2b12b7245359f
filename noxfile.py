"""The project's tasks: `nox -l` lists them, `nox -s lint` runs one.

`.ci/run` runs most of them with `--no-venv`, in one environment that has noria already. Otherwise
each session has its own environment.
"""

from __future__ import annotations

import os
import tempfile
import tomllib
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["lint", "tests"]
nox.options.error_on_missing_interpreters = True

ROOT = Path(__file__).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PYTHONS = ["3.11", "3.12", "3.13"]
PYTEST = ("python", "-m", "pytest", "-q", "-p", "no:cacheprovider")


def install(session: nox.Session, *extras: str, noria: bool = True) -> None:
    """Install noria with `extras`; under `--no-venv` the packages of the extras only."""
    if session.virtualenv.venv_backend == "none":
        needs = packages(*extras)
        if needs:
            session.run("python", "-m", "pip", "install", "-q", *needs, silent=True)
    elif noria:
        session.install("-q", f".[{','.join(extras)}]" if extras else ".")
    else:
        session.install("-q", *packages(*extras))


def packages(*extras: str) -> list[str]:
    """Return the requirements of extras of pyproject.toml, and of the extras that they include."""
    optional = PROJECT["optional-dependencies"]
    found: list[str] = []
    for extra in extras:
        for need in optional[extra]:
            if need.startswith("noria["):
                found += packages(*need.removeprefix("noria[").removesuffix("]").split(","))
            else:
                found.append(need)
    return list(dict.fromkeys(found))


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, types and the layers of the packages."""
    install(session, "lint", noria=False)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("cython-lint", "src")
    session.run("mypy")
    # It reads the sources and imports nothing; `src` must be found before an installed noria.
    session.run("lint-imports", env={"PYTHONPATH": str(ROOT / "src")})


@nox.session
def stubs(session: nox.Session) -> None:
    """Compare the stubs (.pyi) with the compiled modules."""
    install(session, "lint")
    modules = [
        ".".join(path.relative_to(ROOT / "src").with_suffix("").parts)
        for path in sorted((ROOT / "src").rglob("*.pyi"))
    ]
    session.run(
        *("stubtest", "--ignore-missing-stub", "--ignore-disjoint-bases"),
        # It finds no settings by itself; they allow packages to be absent.
        *("--mypy-config-file", "pyproject.toml", *modules),
        env={"MYPYPATH": str(ROOT / "src")},
    )


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the test suite; arguments after `--` go to pytest."""
    install(session, "test")
    session.run(*PYTEST, "-n", "4", *session.posargs)


@nox.session
def slow(session: nox.Session) -> None:
    """Run the tests that `tests` skips because they take long (tests/support/slow.py)."""
    install(session, "test", "metrics")
    session.run(*PYTEST, "-n", "4", *session.posargs, env={"NORIA_SLOW": "only"})


@nox.session(python=["3.12", "3.13"])
def coverage(session: nox.Session) -> None:
    """Run the test suite and print the coverage of the Python part; fail below the floor."""
    install(session, "coverage", "nats", "redis")
    session.run(
        *(*PYTEST, "-n", "4", "--cov", "--cov-report=term:skip-covered", *session.posargs),
        env={"COVERAGE_CORE": "sysmon", "NORIA_BROKERS": "installed", "NORIA_SLOW": "1"},
    )


@nox.session
def fuzz(session: nox.Session) -> None:
    """Fuzz the parsers of untrusted input for 60 s in all; `-- --seconds N` for longer."""
    install(session, "fuzz")
    session.run("python", "tests/fuzz/parsers/run.py", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation site into `site/`; any warning and any dead link is an error."""
    install(session, "docs", noria=False)
    # Without an advertisement that mkdocs-material prints.
    session.run("mkdocs", "build", "--strict", "--quiet", env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session
def programs(session: nox.Session) -> None:
    """Run uvicorn, aiohttp, asyncpg and others on noria's loop; needs PostgreSQL and Redis."""
    install(session, "test", "programs")
    session.run(*PYTEST, "-n", "4", "tests/programs", env={"NORIA_PROGRAMS": "required"})


@nox.session
def troubles(session: nox.Session) -> None:
    """Find the fault of each program in examples/troubles, on every model; none in healthy ones."""
    install(session, "test", "programs")
    session.run(
        # The programs mostly wait.
        *(*PYTEST, "-n", "8", "tests/sight/test_troubles.py"),
        env={"NORIA_TROUBLES": "all", "NORIA_PROGRAMS": "required"},
    )


@nox.session
def bus(session: nox.Session) -> None:
    """Run the tests of the bus with NATS and Redis; needs nats-server and redis-server."""
    install(session, "test", "nats", "redis", "bus")
    tests = (
        "tests/bus",
        "tests/cli/test_cli_events.py",
        "tests/cli/test_cli_work.py",
        "tests/fileserver/test_fileserver_brokers.py",
    )
    session.run(
        *(*PYTEST, "-n", "4", *(session.posargs or tests)), env={"NORIA_BROKERS": "required"}
    )


@nox.session
def kills(session: nox.Session) -> None:
    """Kill workers and brokers of the bus, 20 rounds of 20,000 events on each; see docs/bus.md."""
    install(session, "test", "nats", "redis", "bus")
    session.run(
        *(*PYTEST, "-n", "3", "tests/bus/test_nothing_lost.py", *session.posargs),
        env={
            "NORIA_BUS_ROUNDS": os.environ.get("NORIA_BUS_ROUNDS", "20"),
            "NORIA_BUS_EVENTS": os.environ.get("NORIA_BUS_EVENTS", "20000"),
            "NORIA_BROKERS": "required",
        },
    )


@nox.session
def suites(session: nox.Session) -> None:
    """Run the test suites of other projects on noria's loop, and aiofiles' on noria.aiofiles."""
    install(session, "test")
    install(session, "programs", noria=False)  # aiofiles' tests need pytest-asyncio
    session.run(".ci/aiofiles", external=True)
    session.run(".ci/suites", *session.posargs, external=True)


@nox.session
def soak(session: nox.Session) -> None:
    """Run mixed traffic with faults for 30 s and look for leaks; `-- --seconds N` for longer."""
    install(session)
    session.run("python", "bench/soak.py", *(session.posargs or ["--seconds", "30"]))


@nox.session
def guard(session: nox.Session) -> None:
    """Fail if noria has become slower beside uvloop (bench/floors.toml); needs an idle machine."""
    try:
        install(session, "guard")
    except nox.command.CommandFailed:
        session.warn("uvloop or uvicorn cannot be installed here: the speed is NOT guarded")
        return
    session.run("python", "bench/guard.py", *session.posargs)


@nox.session
def sanitize(session: nox.Session) -> None:
    """Run the tests of the compiled part under AddressSanitizer and UndefinedBehaviorSanitizer."""
    session.run(".ci/sanitize", *session.posargs, external=True)


@nox.session
def dist(session: nox.Session) -> None:
    """Build the sdist and a wheel from it, check both, and import noria from the wheel."""
    install(session, "release", noria=False)
    with tempfile.TemporaryDirectory() as scratch:
        session.run("python", "-m", "build", "-q", "--outdir", scratch, ".", silent=True)
        built = sorted(map(str, Path(scratch).iterdir()))
        session.run("twine", "check", "--strict", *built)
        (wheel,) = (name for name in built if name.endswith(".whl"))
        session.run("auditwheel", "show", wheel)
        python = f"{scratch}/venv/bin/python"
        session.run("python", "-m", "venv", f"{scratch}/venv")
        session.run(python, "-m", "pip", "install", "-q", wheel, external=True)
        with session.chdir(scratch):
            code = "import noria; print('from the wheel:', noria.Reactor().model)"
            session.run(python, "-c", code, external=True)
            # Without the extra `cli` the command says what it needs.
            session.run(f"{scratch}/venv/bin/noria", "--version", external=True, success_codes=[1])
