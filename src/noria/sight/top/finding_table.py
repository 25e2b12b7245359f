"""The table of findings."""

from __future__ import annotations

from noria.sight.findings import Finding
from noria.sight.top import units
from noria.sight.top.tables import BAD, DIM, PLAIN, WARN, Cell, Column, Table


def finding_key(finding: Finding) -> tuple[str, int, str, str]:
    """Return what identifies a finding in all observations."""
    place = str(finding.place) if finding.place else finding.title
    return finding.kind, finding.loop, place, str(finding.data.get("fd", ""))


def severity_style(finding: Finding) -> str:
    """Return the style of a finding's severity."""
    return BAD if finding.severity == "error" else WARN


def _severity(finding: Finding) -> Cell:
    return finding.severity, severity_style(finding)


def _place(finding: Finding) -> str:
    return units.file_line(finding.place) if finding.place else ""


def _text(finding: Finding) -> str:
    evidence = " ".join(finding.evidence)
    return f"{finding.severity} {finding.kind} {finding.title} {finding.place} {evidence}"


def finding_table() -> Table[Finding]:
    """Return the table, errors first."""
    return Table(
        [
            Column(
                "severity",
                "severity",
                9,
                _severity,
                lambda finding: (finding.severity == "error", finding.kind),
                right=False,
                explanation="error or warning",
            ),
            Column(
                "kind",
                "kind",
                26,
                lambda finding: (finding.kind, PLAIN),
                lambda finding: finding.kind,
                priority=3,
                right=False,
            ),
            Column(
                "title",
                "what",
                28,
                lambda finding: (units.clean(finding.title), PLAIN),
                lambda finding: finding.title,
                flexible=3,
                right=False,
            ),
            Column(
                "place",
                "where",
                18,
                lambda finding: (_place(finding), DIM),
                _place,
                priority=2,
                flexible=1,
                right=False,
                explanation="file and line",
            ),
        ],
        "severity",
        _text,
    )
