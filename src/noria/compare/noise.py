"""How noisy the machine was during a comparison: the key "noise" of its document.

A NoiseMeter watches the cores while a server is measured. noise_document() adds what the same
server measured against itself shows. docs/compare.md explains the numbers and the thresholds.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from noria.compare.statistics import paired_ratio

NOISY_SAME_SERVER = 1.10
"""From this ratio of the same server to itself on, the machine counts as noisy."""

NOISY_STEAL_SHARE = 0.02
NOISY_WAITED_SHARE = 0.05
NOISY_OTHER_SHARE = 0.10

_EXACT_CPU_CLOCK = 2
"""Low bits of the id of a process's CPU clock, as the scheduler counts it (clock_getres(2))."""

_Ticks = tuple[int, int, int]


class NoiseMeter:
    """What disturbed the measurements, summed over all watched times."""

    def __init__(self, cores: Iterable[int] | None = None) -> None:
        """`cores`: those of the server and of the load; None for all that this process may use."""
        self.cores = set(os.sched_getaffinity(0) if cores is None else cores)
        self.seconds = 0.0
        self.waited_seconds = 0.0
        self.own_seconds = 0.0
        self.ticks: _Ticks = (0, 0, 0)
        self.waited_known = False

    @contextlib.contextmanager
    def watch(self, server: int, *others: int) -> Iterator[None]:
        """Watch during the block. `server`: its pid; `others`: pids of the load and the like."""
        pids = (server, *others)
        began, own = time.monotonic(), [_cpu_seconds(pid) for pid in pids]
        ticks, waited = _core_ticks(self.cores), waited_seconds(server)
        try:
            yield
        finally:
            self.seconds += time.monotonic() - began
            # A process may have died meanwhile.
            self.own_seconds += sum(
                max(0.0, _cpu_seconds(pid) - before) for pid, before in zip(pids, own, strict=True)
            )
            now, waited_now = _core_ticks(self.cores), waited_seconds(server)
            total, busy, stolen = (
                then + after - before
                for then, after, before in zip(self.ticks, now, ticks, strict=True)
            )
            self.ticks = total, busy, stolen
            if waited is not None and waited_now is not None:
                self.waited_known = True
                self.waited_seconds += max(0.0, waited_now - waited)

    @property
    def steal_share(self) -> float | None:
        """Share of the cores' time in which the hypervisor ran another machine."""
        return self.ticks[2] / self.ticks[0] if self.ticks[0] else None

    @property
    def waited_share(self) -> float | None:
        """Share of the time in which the server could run, but another process had its core."""
        return self.waited_seconds / self.seconds if self.seconds and self.waited_known else None

    @property
    def other_share(self) -> float | None:
        """Share of the cores' time that other processes and interrupts used."""
        if not self.ticks[0]:
            return None
        busy = self.ticks[1] / os.sysconf("SC_CLK_TCK") - self.own_seconds
        return min(1.0, max(0.0, busy) * os.sysconf("SC_CLK_TCK") / self.ticks[0])


def same_server_pair(
    values: Sequence[float | None], others: Sequence[float | None], **what: Any
) -> dict[str, Any] | None:
    """Return the comparison of a server with itself, for noise_document().

    `values` and `others` have one number per round; `what` says which they are. None with fewer
    rounds than the rule needs.
    """
    found = paired_ratio(values, others)
    if found is None:
        return None
    return {**what, "ratio": found.median, "low": found.low, "high": found.high}


def noise_document(
    meter: NoiseMeter | None, pairs: Iterable[dict[str, Any] | None]
) -> dict[str, Any]:
    """Return the object "noise" of a document. `pairs`: results of same_server_pair()."""
    known = [pair for pair in pairs if pair is not None]
    ratios = [pair["ratio"] for pair in known]
    found: dict[str, Any] = {
        "pairs": known,
        "ratios": ratios,
        "same_server": max(map(factor, known), default=None),
        "steal_share": meter and meter.steal_share,
        "waited_share": meter and meter.waited_share,
        "other_share": meter and meter.other_share,
    }
    found["warning"] = _warning(found)
    found["noisy"] = bool(found["warning"])
    return found


def same_server(noise: Any, **place: Any) -> float:
    """Return the ratio of the same server to itself, at least 1, from an object "noise".

    It is the largest of the pairs measured at `place` (``figure="throughput", connections=100``),
    or of all pairs if there are none of this place. If there are no pairs at all, it is what the
    object says, or 1.
    """
    found = noise.get("pairs") if isinstance(noise, dict) else None
    pairs = [pair for pair in found or () if _number(pair, "ratio") > 0]
    there = [pair for pair in pairs if place and place.items() <= pair.items()]
    return max(map(factor, there or pairs), default=max(1.0, _number(noise, "same_server")))


def factor(pair: dict[str, Any]) -> float:
    """Return by which ratio the two of a pair differ, at least 1."""
    ratio = float(pair["ratio"])
    return max(ratio, 1 / ratio)


def _number(found: Any, key: str) -> float:
    """A finite number, 0 if there is none."""
    value = found.get(key) if isinstance(found, dict) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return 0.0
    return float(value)


def _warning(noise: dict[str, Any]) -> str:
    """What is above its threshold, and what to do; an empty string if nothing is."""
    causes = []
    if (noise["same_server"] or 1.0) > NOISY_SAME_SERVER:
        percent = 100 * (noise["same_server"] - 1)
        causes.append(f"the same server measured twice differed by {percent:.0f}%")
    for key, limit, words in (
        ("steal_share", NOISY_STEAL_SHARE, "the hypervisor took {} of the cores' time"),
        ("waited_share", NOISY_WAITED_SHARE, "the server waited for its core {} of the time"),
        ("other_share", NOISY_OTHER_SHARE, "other processes used {} of the cores"),
    ):
        if (noise[key] or 0.0) > limit:
            causes.append(words.format(f"{100 * noise[key]:.0f}%"))
    if not causes:
        return ""
    return f"the machine was noisy: {', '.join(causes)}; repeat on an idle machine to see more"


def _cpu_seconds(pid: int) -> float:
    """CPU time of a process and its reaped threads; 0 after its end."""
    try:
        return time.clock_gettime((~pid << 3) | _EXACT_CPU_CLOCK)
    except OSError:
        return 0.0


def waited_seconds(process: int | str) -> float | None:
    """For how long a thread was runnable without a core; None if the kernel does not say.

    `process`: a pid, for its main thread, or "thread-self" (proc(5)).
    """
    try:
        return int(Path(f"/proc/{process}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return None


def _core_ticks(cores: set[int]) -> _Ticks:
    """Of the cores since boot, in ticks: all time, busy time without steal, steal (proc(5))."""
    total = busy = stolen = 0
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/stat").read_text().splitlines():
            name, *ticks = line.split()
            if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in cores:
                user, nice, system, idle, waiting, irq, softirq, steal = map(int, ticks[:8])
                working = user + nice + system + irq + softirq
                total += working + idle + waiting + steal
                busy += working
                stolen += steal
    return total, busy, stolen
