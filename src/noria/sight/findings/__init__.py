"""Findings: faults of the observed program, each with evidence, its place and what to do.

May import `noria.sight.observation`. `find` is the entry; one module for each group of kinds.
"""

from noria.sight.findings.finding import ERROR, KINDS, WARNING, Finding
from noria.sight.findings.search import find
from noria.sight.findings.thresholds import Thresholds

__all__ = ["ERROR", "KINDS", "WARNING", "Finding", "Thresholds", "find"]
