"""Describes the noise of the machine: the section `noise` of a document, as text and as tables."""

from __future__ import annotations

from typing import Any

from noria.compare.report import sentences
from noria.compare.report.document import Row, number, section
from noria.compare.report.tables import Column, Table, Value

TITLE = "The noise of this machine"
QUESTION = "How far do two measurements of the same thing differ here?"

NUMBERS = ("ratio", "low", "high")
"""The numbers of a pair; its other keys say what was measured."""

SHARES = {
    "steal_share": "stolen: the host gave the core to another machine",
    "waited_share": "waited: the server was ready to run, and waited for its core",
    "other_share": "others: other processes ran on the cores",
}
"""What disturbs a measurement, as shares of its time."""


def measured(results: dict[str, Any]) -> bool:
    """Whether the document says anything of the noise."""
    return bool(pairs(results)) or any(
        number(section(results, "noise"), key) is not None for key in SHARES
    )


def pairs(results: dict[str, Any]) -> list[Row]:
    """The comparisons of a server with itself that have a ratio."""
    found = section(results, "noise").get("pairs")
    if not isinstance(found, list):
        return []
    return [pair for pair in found if isinstance(pair, dict) and number(pair, "ratio") is not None]


def sentence(results: dict[str, Any]) -> str:
    """The warning, which has all that is large, or else how quiet the machine was."""
    warning = str(section(results, "noise").get("warning") or "").strip().rstrip(".")
    if warning:
        return f"{warning[0].upper()}{warning[1:]}."
    return sentences.noise(results) or "The noise of the machine was not measured."


def tables(results: dict[str, Any]) -> list[Table]:
    """The ratios of the pairs, and the shares of the disturbances."""
    part = section(results, "noise")
    found = pairs(results)
    what = list(dict.fromkeys(key for pair in found for key in pair if key not in NUMBERS))
    rows: list[list[Value]] = [
        [*(_text(pair.get(key)) for key in what), *(number(pair, key) for key in NUMBERS)]
        for pair in found
    ]
    shares: list[list[Value]] = [
        [words, number(part, key)] for key, words in SHARES.items() if number(part, key) is not None
    ]
    ratio = "{:.3f}".format
    return [
        Table(
            "The same server against itself: ratio, and its confidence interval",
            [*(Column(key) for key in what), *(Column(key, ratio) for key in NUMBERS)],
            [rows] if rows else [],
        ),
        Table(
            "Disturbances, as shares of the time",
            [Column("disturbance"), Column("share", "{:.1%}".format)],
            [shares] if shares else [],
        ),
    ]


def _text(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value or "")
