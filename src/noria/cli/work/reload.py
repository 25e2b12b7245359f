"""``--reload``: a worker that is replaced when a source file changes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

from noria.cli.work.output import TextOutput
from noria.cli.work.supervisor import WorkSupervisor
from noria.cli.work.totals import WorkTotals
from noria.servers.config import OnReady

CHECK_SECONDS = 0.5
MAX_FILES = 20_000
SKIPPED_DIRECTORIES = frozenset({"__pycache__", "node_modules", "site-packages", "build", "dist"})


class ReloadSupervisor(WorkSupervisor):
    """Supervises one worker, and restarts it when a .py file below `directory` changes.

    A worker that ends by itself, as by a syntax error, is started again at the next change.
    """

    def __init__(
        self,
        serve: Callable[[OnReady], WorkTotals],
        output: TextOutput,
        grace: float,
        directory: str,
    ) -> None:
        super().__init__(serve, output, grace)
        self.directory = directory
        self.reloading = False
        self._times = dict(source_files(directory))

    def run(self) -> WorkTotals:
        """Restart the worker at each change until a signal; return the totals."""
        while self.workers or not self.stopping:
            self.reap()
            if self.stopping:
                if self.workers:
                    self.wait_for_signal()
                continue
            changed = self.changed_files()
            if changed:
                self.output.reloading(changed)
                self.reloading = True
                self.signal_workers(signal.SIGTERM)
            if self.reloading and not self.workers:
                self.reloading = False
                self.start_worker()
            self.wait_for_signal(CHECK_SECONDS)
        return self.total

    def reap(self) -> None:
        """Collect a worker that has ended."""
        for pid in list(self.workers):
            ended, _ = os.waitpid(pid, os.WNOHANG)
            if ended:
                self.collect(pid)
                if not self.stopping and not self.reloading:
                    self.output.waiting_for_change()

    def changed_files(self) -> list[str]:
        """Return the files that are new, changed or removed since the last call."""
        before, self._times = self._times, dict(source_files(self.directory))
        changed = {name for name, _ in before.items() ^ self._times.items()}
        return sorted(os.path.relpath(name, self.directory) for name in changed)


def source_files(directory: str) -> Iterator[tuple[str, int]]:
    """Yield the .py files below a directory and when they changed, in ns.

    Hidden directories, virtual environments and SKIPPED_DIRECTORIES are skipped.
    """
    found = 0
    for path, directories, names in os.walk(directory):
        directories[:] = [
            name
            for name in directories
            if not name.startswith(".")
            and name not in SKIPPED_DIRECTORIES
            and not os.path.exists(os.path.join(path, name, "pyvenv.cfg"))
        ]
        for name in names:
            if not name.endswith(".py"):
                continue
            file = os.path.join(path, name)
            try:
                yield file, os.stat(file).st_mtime_ns
            except OSError:  # removed meanwhile
                continue
            found += 1
            if found >= MAX_FILES:
                return
