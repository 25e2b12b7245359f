"""An executor whose workers are all busy while jobs wait."""

from __future__ import annotations

from noria.sight.findings.finding import Finding
from noria.sight.findings.thresholds import Thresholds
from noria.sight.findings.units import duration, plural
from noria.sight.observation import LoopFigures


def find(loop: LoopFigures, thresholds: Thresholds) -> list[Finding]:
    """Return a finding if jobs of run_in_executor waited long for a worker."""
    executor = loop.executor
    limit = round(thresholds.executor_wait * 1e9)
    # A job that still waits is not among those whose wait is known.
    waited = executor.waiting.above(limit)
    if not waited or executor.waiting.longest < limit:
        return []
    codes = sorted(executor.by_code, key=lambda code: -code.busy)
    place = codes[0].place if codes else None
    workers = executor.max_workers or executor.workers
    evidence = [
        f"{plural(waited, 'job')} of {executor.submitted:,} waited longer than "
        f"{duration(limit)} for a worker, the longest {duration(executor.waiting.longest)}",
    ]
    if workers:
        evidence.append(
            f"all {plural(workers, 'worker')} were busy"
            + (f", and {plural(executor.queued, 'job')} wait now" if executor.queued else "")
        )
    if codes:
        mean = codes[0].busy / max(codes[0].calls, 1)
        evidence.append(
            f"{codes[0].place.function} occupied them: {plural(codes[0].calls, 'job')} of "
            f"{duration(mean)} on average"
        )
    return [
        Finding(
            kind="executor-full",
            title=f"jobs wait up to {duration(executor.waiting.longest)} for a worker of the "
            "executor",
            evidence=evidence,
            place=place,
            advice="Use the asynchronous form of these calls, give long jobs an executor of their "
            "own (loop.run_in_executor(executor, ...)), raise max_workers "
            "(loop.set_default_executor), or begin fewer at once (asyncio.Semaphore).",
            loop=loop.id,
            data={
                "waited": waited,
                "longest": executor.waiting.longest,
                "workers": workers,
                "queued": executor.queued,
            },
        )
    ]
