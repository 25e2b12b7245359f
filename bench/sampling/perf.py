"""Sample a process with perf(1) and read the stacks of the samples.

The event is cpu-clock, a timer of the kernel, because a virtual machine has no hardware counters.
Stacks are unwound by DWARF tables (.eh_frame), because CPython and the extension modules are
compiled without frame pointers.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness import Unavailable

# A prime, so that the samples do not follow a timer of the server or of the kernel.
HERTZ = 997
STACK_BYTES = 16384  # of the stack are copied with a sample
PARANOID = Path("/proc/sys/kernel/perf_event_paranoid")
KERNEL = "[kernel.kallsyms]"
FRAME = re.compile(r"^\s+([0-9a-f]+) (.*) \((.*)\)$")


@dataclass(frozen=True, slots=True)
class Frame:
    """One function of a stack."""

    symbol: str
    file: str  # the path of the mapped file; [kernel.kallsyms] for the kernel

    @property
    def in_kernel(self) -> bool:
        return self.file.startswith(("[kernel", "[guest.kernel")) or self.file.endswith(".ko")


Stack = tuple[Frame, ...]  # the innermost function first


def check() -> None:
    """Check that perf can sample another process here, the kernel included; else exit with why."""
    if not shutil.which("perf"):
        sys.exit("perf is not installed: apt-get install linux-perf (Ubuntu: linux-tools-generic)")
    level = PARANOID.read_text().strip() if PARANOID.exists() else "?"
    allow = f"run as root, or: sysctl kernel.perf_event_paranoid=1 (now {level})"
    if os.geteuid() and level not in ("-1", "0", "1"):
        sys.exit(f"perf may not sample the kernel here: {allow}")
    tried = subprocess.run(
        ["perf", "record", "-q", "-e", "cpu-clock", "-o", "/dev/null", "--", "true"],
        capture_output=True,
        text=True,
    )
    if tried.returncode:
        reason = (tried.stderr.strip().splitlines() or ["it failed without a message"])[-1]
        sys.exit(f"perf cannot sample here: {reason}\n{allow}")


def record(pid: int, output: Path, seconds: float, hertz: int) -> None:
    """Sample a process for `seconds`. Raises Unavailable with perf's message."""
    words = ["perf", "record", "-q", "-e", "cpu-clock", "-F", str(hertz)]
    words += ["--call-graph", f"dwarf,{STACK_BYTES}", "-m", "4M"]
    words += ["-p", str(pid), "-o", str(output), "--", "sleep", str(seconds)]
    process = subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, process_group=0
    )
    try:
        _, errors = process.communicate(timeout=seconds + 30)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    if process.returncode:
        raise Unavailable(f"perf record: {(errors.strip().splitlines() or ['failed'])[-1]}")


def stacks(data: Path) -> Iterator[Stack]:
    """Yield the stack of each sample."""
    words = ["perf", "script", "--no-inline", "-F", "ip,sym,dso", "-i", str(data)]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, errors="replace"
    )
    assert process.stdout is not None
    with process:
        yield from parse(process.stdout)


def parse(lines: Iterator[str]) -> Iterator[Stack]:
    """Yield the stacks in the output of perf script, which ends each with an empty line."""
    stack: list[Frame] = []
    for line in lines:
        if found := FRAME.match(line):
            stack.append(Frame(found[2], found[3]))
        elif stack:
            yield tuple(stack)
            stack = []
    if stack:
        yield tuple(stack)
