"""The checks of the pytest plugin: limits on blocking, and leaks."""

from __future__ import annotations

import contextlib
import inspect
import re
import time
import warnings
from collections import Counter
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import TestCase

import pytest

from noria.aio.loop import EventLoop
from noria.errors import NoriaError
from noria.sight.block_report import seconds
from noria.sight.leaks import Leak, LeakCheck, LoopHooks
from noria.sight.lifetime import acquire, release
from noria.sight.loop_replacement import replace_default_loop
from noria.sight.places import PlaceTuple, innermost_user_place, is_user_code
from noria.sight.settings import Settings

if TYPE_CHECKING:
    from noria.sight.agent import Agent

UNITS = {"ns": 1, "us": 1_000, "µs": 1_000, "ms": 1_000_000, "s": 1_000_000_000, "": 1_000_000}
# Fixtures that choose the loop, and packages whose fixtures own nothing else.
LOOP_FIXTURES = ("event_loop", "event_loop_policy", "anyio_backend", "anyio_backend_options")
RUNNERS = ("_pytest", "pytest_asyncio", "anyio", "noria")
MAX_BLOCKS_SHOWN = 3
MAX_FRAMES = 20  # of a stack
MAX_END_DELAY = 5.0  # seconds until the watchdog must have noticed the end of a block


def parse_duration(text: str) -> int:
    """Return the ns of "50ms", "0.5s", "200us"; a number alone is in milliseconds.

    Raises ValueError.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zµ]*)\s*", str(text))
    if found is None or found[2] not in UNITS or not float(found[1]):
        raise ValueError(f"{text!r} is not a time: write it as 50ms or 0.5s")
    return round(float(found[1]) * UNITS[found[2]])


class Checks:
    """The hooks of a session in which an option or a marker of the plugin is used."""

    def __init__(self, config: pytest.Config) -> None:
        self.root = config.rootpath
        self.default_limit = _configured_limit(config)
        self.check_leaks = bool(config.getoption("noria_leaks") or config.getini("noria_leaks"))
        self.hooks = LoopHooks()
        self.agent: Agent | None = None
        self.limit = 0  # ns, of the test that runs; 0: none
        self._is_async = False
        self.leak_check: LeakCheck | None = None
        self._wider: dict[pytest.FixtureDef[Any], str] = {}  # active fixtures: see is_wider
        self._wider_names: dict[str, None] = {}  # of those that were active during a check
        self.model = str(config.getoption("noria_loop") or config.getini("noria_loop") or "auto")
        self._install(config)

    def _install(self, config: pytest.Config) -> None:
        """Have tests and fixtures run on noria's loop until the end of the session."""
        try:
            check_model(self.model)
        except NoriaError as error:
            raise pytest.UsageError(f"--noria-loop: {error}") from None
        config.add_cleanup(replace_default_loop(self.model))
        self.hooks.install()
        config.add_cleanup(self.hooks.remove)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """Watch the loops while the tests run, if one of them has a limit."""
        limits = []
        for item in session.items:
            with contextlib.suppress(ValueError):  # that test fails
                limits.append(self._limit_of(item))
        if any(limits):
            settings = Settings(
                max_block=min(filter(None, limits)), socket=False, report_blocks=False
            )
            self.agent = acquire(settings)
        try:
            return (yield)
        finally:
            if self.agent is not None:
                release()
                self.agent = None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, object, object]:
        """Fail a test whose fixtures block the loop, or whose marker is wrong."""
        wrong = ""
        try:
            self.limit = self._limit_of(item)
        except ValueError as error:
            self.limit, wrong = 0, str(error)
        self.hooks.begin_test(shared=bool(self._wider))
        self._is_async = inspect.iscoroutinefunction(getattr(item, "function", None))
        result = yield from self._limited(item, "setup")
        if wrong:
            # After the setup, which the hooks of other plugins rely on at the end of the test.
            pytest.fail(f"max_block: {wrong}", pytrace=False)
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Fail a test that blocks the loop, or leaves what it should not."""
        self.leak_check = LeakCheck(self.hooks) if self._checks_leaks(item) else None
        runs = self.hooks.runs
        try:
            result = yield from self._limited(item, "call")
        except BaseException:
            self.leak_check = None  # a failed test is not expected to clean up
            raise
        if self.leak_check is not None:
            self._wider_names.update(dict.fromkeys(self._wider.values()))
            self._report_leaks(self.leak_check.end_of_call())
        if (self.limit or self.leak_check) and self.hooks.runs == runs and self._is_async:
            warnings.warn(
                pytest.PytestWarning(
                    f"{item.nodeid} has not run on noria's event loop: nothing was checked. "
                    "Fixtures that choose the loop (event_loop_policy, anyio_backend) override "
                    "--noria-loop"
                ),
                stacklevel=1,
            )
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, object, object]:
        """Fail a test whose fixtures block the loop at their end, or that leaves something open."""
        check, self.leak_check = self.leak_check, None
        result = yield from self._limited(item, "teardown")
        if check is not None:
            self._report_leaks(check.end_of_teardown())
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Generator[None, object, object]:
        """Note the fixtures of a wider scope than a test, and which loops are theirs."""
        if fixturedef.scope == "function":
            return (yield)
        if is_wider(fixturedef, request):
            self._wider[fixturedef] = fixturedef.argname
            self.hooks.shared = True
        self.hooks.wider_setups += 1
        try:
            return (yield)
        finally:
            self.hooks.wider_setups -= 1

    def pytest_fixture_post_finalizer(self, fixturedef: pytest.FixtureDef[Any]) -> None:
        """Note that a fixture has ended."""
        self._wider.pop(fixturedef, None)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say which fixtures have limited the check for leaks."""
        if self._wider_names:
            names = sorted(name for name in self._wider_names if not name.startswith("_"))
            terminalreporter.write_line(
                "noria: while fixtures of a wider scope are active, only a test's own loops are "
                f"checked for leaks: {', '.join(names) or 'setUpClass, setup_module'}"
            )

    def _limited(self, item: pytest.Item, phase: str) -> Generator[None, object, object]:
        """Run a phase of a test; fail if the loop was blocked for longer than the limit."""
        number, runs = self._last_block(), self.hooks.runs
        try:
            result = yield
        except BaseException:
            if report := self._blocked_since(number, runs):
                item.add_report_section(phase, "event loop", report)
            raise
        if report := self._blocked_since(number, runs):
            pytest.fail(report, pytrace=False)
        return result

    def _last_block(self) -> int:
        return self.agent.blocks.latest if self.agent is not None else 0

    def _blocked_since(self, number: int, runs: int) -> str:
        """Return what to report of the blocks since `number`; "" if the limit was kept."""
        if not self.limit or self.agent is None or self.hooks.runs == runs:
            return ""
        blocks = self._ended_blocks(self.agent, number)
        too_long = [block for block in blocks if block["duration"] > self.limit]
        too_long.sort(key=lambda block: -block["duration"])
        reports = [self._describe(block) for block in too_long[:MAX_BLOCKS_SHOWN]]
        if len(too_long) > MAX_BLOCKS_SHOWN:
            reports.append(f"and {len(too_long) - MAX_BLOCKS_SHOWN} more")
        return "\n\n".join(reports)

    def _ended_blocks(self, agent: Agent, number: int) -> list[dict[str, Any]]:
        """Return the blocks since `number`, once the watchdog has noticed that they ended."""
        deadline = time.monotonic() + MAX_END_DELAY
        while True:
            time.sleep(0.001)  # lets the watchdog take the GIL
            blocks = agent.blocks_after(number)
            if all(block["ended"] for block in blocks) or time.monotonic() > deadline:
                return blocks

    def _describe(self, block: dict[str, Any]) -> str:
        stack = [tuple(place) for place in block["stack"]]
        place = innermost_user_place(stack)
        where = f"{self._path(place[1])}:{place[2]}: " if place is not None else ""
        details = " by C code that held the GIL" if block["gil_held"] else ""
        lines = [
            f"{where}the event loop was blocked for {seconds(block['duration'])}{details} "
            f"(limit: {seconds(self.limit)})"
        ]
        for function, file, line, source in program_frames(stack):
            lines.append(f"  {self._path(file)}:{line} in {function}")
            if source:
                lines.append(f"    {source}")
        return "\n".join(lines)

    def _report_leaks(self, leaks: Iterable[Leak]) -> None:
        """Fail the test if there are leaks."""
        leaks = list(leaks)
        if not leaks:
            return
        counts = Counter(leak.kind for leak in leaks)
        parts = [f"{count} {kind}" + ("s" if count > 1 else "") for kind, count in counts.items()]
        lines = [f"the test leaves {', '.join(parts)}"]
        for leak in leaks:
            where = f"{self._path(leak.file)}:{leak.line}: " if leak.file else ""
            lines.append(f"  {where}{leak.text}")
            if leak.source:
                lines.append(f"    {leak.source}")
        pytest.fail("\n".join(lines), pytrace=False)

    def _path(self, file: str) -> str:
        """Return a file's path as pytest shows it: from the root directory if it is below it."""
        path = Path(file)
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else file

    def _checks_leaks(self, item: pytest.Item) -> bool:
        marker = item.get_closest_marker("no_leaks")
        if marker is None:
            return self.check_leaks
        return bool(marker.kwargs.get("check", marker.args[0] if marker.args else True))

    def _limit_of(self, item: pytest.Item) -> int:
        """Return the limit of a test in ns; 0: none. Raises ValueError for a wrong marker."""
        marker = item.get_closest_marker("max_block")
        if marker is None:
            return self.default_limit
        try:
            return marker_limit(*marker.args, **marker.kwargs)
        except TypeError:  # unknown or too many arguments
            raise ValueError(
                'write max_block("50ms"), max_block(ms=50) or max_block(s=0.5)'
            ) from None


def is_wider(fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest) -> bool:
    """Whether a fixture outlives a test and may own connections, tasks or descriptors."""
    name = fixturedef.argname
    if fixturedef.scope == "function" or name in LOOP_FIXTURES:
        return False
    if name.startswith("_unittest_setUpClass"):
        method = getattr(request.cls, "setUpClass", None)
        return getattr(method, "__func__", None) is not TestCase.setUpClass.__func__  # type: ignore[attr-defined]
    if name.startswith("_xunit_setup"):
        return True
    module = getattr(fixturedef.func, "__module__", None) or ""
    return module.partition(".")[0] not in RUNNERS


def check_model(model: str) -> None:
    """Raise NoriaError if no asyncio loop can run on the model."""
    EventLoop(model).close()


def marker_limit(
    limit: str | float | None = None, *, ms: float | None = None, s: float | None = None
) -> int:
    """Return the ns of the marker max_block's arguments; 0 for None. Raises ValueError."""
    if ms is not None:
        limit = f"{ms}ms"
    elif s is not None:
        limit = f"{s}s"
    return 0 if limit is None else parse_duration(str(limit))


def _configured_limit(config: pytest.Config) -> int:
    text = config.getoption("noria_max_block") or config.getini("noria_max_block")
    if not text:
        return 0
    try:
        return parse_duration(text)
    except ValueError as error:
        raise pytest.UsageError(f"--noria-max-block: {error}") from None


def program_frames(stack: list[PlaceTuple]) -> list[PlaceTuple]:
    """Return the frames from the program's outermost one on, at most the innermost MAX_FRAMES."""
    begin = next((at for at, place in enumerate(stack) if is_user_code(place[1])), 0)
    return stack[begin:][-MAX_FRAMES:]
