"""Findings as plain text: the summary of `noria run`, `noria report --text` and logs."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from noria.sight.findings.finding import Finding
from noria.sight.findings.units import plural


def render(findings: Sequence[Finding], width: int = 100) -> str:
    """Return the findings as lines of at most `width` columns, without a newline at the end."""
    if not findings:
        return "no findings"
    blocks = [plural(len(findings), "finding")]
    blocks += [
        "\n".join(lines(finding, number, width)) for number, finding in enumerate(findings, 1)
    ]
    return "\n\n".join(blocks)


def lines(finding: Finding, number: int, width: int = 100) -> list[str]:
    """Return a finding's lines: title, place, evidence, advice."""
    found = textwrap.wrap(
        f"{number}. {finding.severity}: {finding.title} [{finding.kind}]",
        width,
        subsequent_indent="   ",
    )
    place = finding.place
    if place is not None and str(place):
        found.append(f"   at {place}")
        if place.source:
            found.append(f"      {place.source.strip()}")
    for sentence in finding.evidence:
        found += textwrap.wrap(sentence, width, initial_indent="   - ", subsequent_indent="     ")
    found += textwrap.wrap(finding.advice, width, initial_indent="   → ", subsequent_indent="     ")
    return found


def one_line(finding: Finding) -> str:
    """Return a finding on one line: for logs, and for tests that fail."""
    where = f" at {finding.place}" if finding.place is not None and str(finding.place) else ""
    first = f": {finding.evidence[0]}" if finding.evidence else ""
    return f"{finding.kind}: {finding.title}{where}{first}"
