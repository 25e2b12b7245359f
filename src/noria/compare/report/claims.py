"""The claims of a document: every difference that its sentences state and its tables mark."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from noria.compare.report import standings
from noria.compare.report.sentences import STATEMENTS
from noria.compare.report.standings import Claim


def claims(results: dict[str, Any]) -> list[Claim]:
    """Return the claims of a document, each once, for its key "claims"."""
    stated = [
        claim
        for statements in STATEMENTS.values()
        for statement in statements(results)
        for claim in statement.claims
    ]
    marked = [claim for standing in standings.marks(results) for claim in standing.claims()]
    found: dict[tuple[Any, ...], Claim] = {}
    for claim in [*stated, *marked]:
        found.setdefault((*_what(claim), claim["higher"], claim["lower"]), claim)
    return list(found.values())


def contradictions(
    one: dict[str, Any] | Iterable[Claim], other: dict[str, Any] | Iterable[Claim]
) -> list[tuple[Claim, Claim]]:
    """Return the pairs of claims of two documents that say the opposite of each other.

    Both arguments are documents with the key "claims", of ``noria compare`` or ``noria compare
    loops``, or lists of claims.
    """
    opposite = {(*_what(claim), claim["lower"], claim["higher"]): claim for claim in _listed(other)}
    return [
        (claim, opposite[key])
        for claim in _listed(one)
        if (key := (*_what(claim), claim["higher"], claim["lower"])) in opposite
    ]


def _listed(document: dict[str, Any] | Iterable[Claim]) -> list[Claim]:
    return list(document.get("claims") or ()) if isinstance(document, dict) else list(document)


def _what(claim: Claim) -> tuple[Any, ...]:
    return claim["figure"], claim["column"], tuple(sorted(claim["at"].items()))
