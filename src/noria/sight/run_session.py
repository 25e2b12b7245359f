"""The work of `noria run` in one process: a recording, metrics, dumps, a summary of findings."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import time
from typing import TYPE_CHECKING, Any

from noria._core.recorder import signals
from noria.errors import error_message
from noria.sight.dump import RecordingWriter, default_dump_path, dump_rings, numbered_path
from noria.sight.messages import warn, write

if TYPE_CHECKING:
    from noria.sight.agent import Agent
    from noria.sight.findings import Finding
    from noria.sight.live_observer import LiveObserver
    from noria.sight.run_options import RunOptions
    from noria.sight.watched_loop import WatchedLoop

MAX_FINDINGS_SHOWN = 10
MAX_FINDINGS_KEPT = 1000  # of loops whose rings are freed
MIN_DUMP_INTERVAL = 60.0  # seconds between two dumps of blocked loops


class RunSession:
    """The work of `noria run` while an agent is there; errors are messages on standard error."""

    def __init__(self, agent: Agent, options: RunOptions) -> None:
        self.agent = agent
        self.options = options
        self.writer: RecordingWriter | None = None
        self.observer: LiveObserver | None = None
        self.metrics: Any = None
        self._dumped = 0.0
        self._closed: set[int] = set()  # loops whose findings are in `_found`
        self._found: list[Finding] = []
        if options.record is not None:
            self._record(options.record)
        if options.metrics is not None and options.is_program:
            self._serve_metrics(*options.metrics)
        if options.findings:
            # Now: an import at exit would define dataclasses with exec(), after which the
            # interpreter forgets that a KeyboardInterrupt ends it, and exits with status 1.
            importlib.import_module("noria.sight.findings")
            self.observer = agent.observer()
        if options.dump_on_block:
            agent.on_block.append(self._dump_blocked)
        self._signal_fd = -1
        if options.watch:
            self._handle_signals()
        agent.add_ticker(self._tick)
        agent.add_reader(self._read_closed)
        agent.on_abandon.append(self.abandon)

    def abandon(self) -> None:
        """In the child of a fork: leave the parent's files and signals."""
        if self.writer is not None:
            self.writer.abandon()
        if self.observer is not None:
            self.observer.close()
        if self._signal_fd >= 0:
            signals.remove_dump_signal()
            os.close(self._signal_fd)

    def _handle_signals(self) -> None:
        """Write flight recordings on the user's signal, and on those of a crash."""
        if self.agent.flight_recorder is not None:
            self.agent.flight_recorder.write_on_crash(
                default_dump_path(self.options.dump_dir, "crash")
            )
        if self.options.dump_signal:
            fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            if signals.install_dump_signal(self.options.dump_signal, fd):
                self._signal_fd = fd
                self.agent.watch_fd(fd, self._signalled)
            else:
                os.close(fd)

    def _signalled(self, mask: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._signal_fd)
            self.dump("signal")

    def _record(self, path: str) -> None:
        if not self.options.is_program:
            path = numbered_path(path, os.getpid())
        try:
            self.writer = RecordingWriter(self.agent, path)
        except OSError as error:
            warn(f"not recorded: {path}: {error_message(error)}")

    def _serve_metrics(self, host: str, port: int) -> None:
        try:
            module = importlib.import_module("noria.sight.metrics")
            self.metrics = module.serve_metrics(self.agent, host, port)
        except ImportError:
            warn("no metrics: pip install 'noria[metrics]'")
        except OSError as error:
            warn(f"no metrics: {error_message(error)}")
        else:
            warn(f"metrics at http://{self.metrics.address}/metrics")

    def _tick(self) -> None:
        if self.writer is not None:
            self.writer.write()
        if self.observer is not None:
            self.observer.poll()
        if self.agent.flight_recorder is not None:
            self.agent.flight_recorder.tick()  # soon: a crash shows only the names written before

    def _read_closed(self, loops: list[WatchedLoop]) -> None:
        """Take everything from closed loops whose rings are about to be freed."""
        if self.writer is not None:
            self.writer.write(loops)
        if self.observer is not None:
            self._find_in(self.observer, loops)

    def _find_in(self, live: LiveObserver, loops: list[WatchedLoop]) -> None:
        """Keep the findings of closed loops, whose figures the observer will forget."""
        from noria.sight.findings import find
        from noria.sight.observation import Observation

        live.read_all()
        figures = []
        for watched in loops:
            known = live.observer.loops.get(watched.id)
            if known is not None:
                known.take_errors(watched.errors.records())
                figures.append(known.figures())
                watched.was_read = True
                self._closed.add(watched.id)
        self._found += find(Observation(max_block=live.observer.max_block, loops=figures))
        del self._found[MAX_FINDINGS_KEPT:]

    def dump(self, reason: str) -> None:
        """Write the flight recording into a new file."""
        path = default_dump_path(self.options.dump_dir, reason)
        try:
            records = dump_rings(self.agent, path)
        except OSError as error:
            warn(f"no flight recording: {path}: {error_message(error)}")
        else:
            warn(f"flight recording of {records} records: noria report {path}")

    def _dump_blocked(self, block: dict[str, Any]) -> None:
        now = time.monotonic()
        if not self._dumped or now - self._dumped >= MIN_DUMP_INTERVAL:
            self._dumped = now
            self.agent.call(lambda: self.dump("blocked"))

    def finish(self) -> None:
        """End the recording and show the findings."""
        self.agent.remove_ticker(self._tick)
        self.agent.remove_reader(self._read_closed)
        self.agent.sync()
        if self.agent.watchdog is not None:
            self.agent.watchdog.sync()
        signals.remove_dump_signal()
        if self.metrics is not None:
            self.metrics.close()
        if self.writer is not None:
            try:
                self.writer.close()
            except OSError as error:
                warn(f"{self.writer.path}: {error_message(error)}")
        if self.observer is not None:
            with contextlib.suppress(OSError):  # a ring could not be opened
                self._show_findings(self.observer)
            self.observer.close()
        if self.agent.loops_lost and (self.writer is not None or self.observer is not None):
            warn(f"loops not recorded: {self.agent.loops_lost:,} (they could not be read in time)")

    def _show_findings(self, observer: LiveObserver) -> None:
        from noria.sight.findings import ERROR, find

        observation = observer.observe()
        observation.loops = [loop for loop in observation.loops if loop.id not in self._closed]
        found = self._found + find(observation)
        found.sort(key=lambda finding: finding.severity != ERROR)
        if not found:
            return
        if self.options.json:
            text = json.dumps(
                {"pid": os.getpid(), "findings": [finding.as_dict() for finding in found]}
            )
        else:
            text = format_findings(found, 0 if self.options.is_program else os.getpid())
        write(text)


def format_findings(findings: list[Finding], pid: int = 0) -> str:
    """Return the summary of findings as text; *pid*: of a child process."""
    count = len(findings)
    where = f" in process {pid}" if pid else ""
    lines = [f"noria: {count} {'finding' if count == 1 else 'findings'}{where}"]
    for finding in findings[:MAX_FINDINGS_SHOWN]:
        lines.append(f"  {finding.severity}: {finding.title}  [{finding.kind}]")
        place = finding.place
        if place is not None and place.file:
            source = f": {place.source}" if place.source else ""
            lines.append(f"    {place.file}:{place.line}{source}")
        if finding.evidence:
            lines.append(f"    {finding.evidence[0]}")
        lines.append(f"    {finding.advice}")
    if count > MAX_FINDINGS_SHOWN:
        lines.append(f"  and {count - MAX_FINDINGS_SHOWN} more; noria run --json lists all")
    return "\n".join(lines)
