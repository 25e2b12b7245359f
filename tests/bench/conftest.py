"""The benchmarks' own logic is tested on synthetic figures; nothing is measured here."""

from __future__ import annotations

import sys

from support.running import ROOT

if (ROOT / "bench").exists():
    sys.path.append(str(ROOT / "bench"))
else:
    collect_ignore_glob = ["test_*.py"]  # the sdist has no bench/
