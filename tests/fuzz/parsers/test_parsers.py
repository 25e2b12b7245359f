"""Every fuzz target holds on each input of the corpus, and on its pieces."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("httpx")
sys.path.insert(0, str(Path(__file__).parent))
from targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"


@pytest.mark.parametrize("name", TARGETS)
def test_corpus(name: str) -> None:
    inputs = [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]
    assert inputs, f"no inputs: python {Path(__file__).parent}/run.py --keep {name}"
    for data in [b"", *inputs]:
        for end in (len(data), len(data) // 2):
            TARGETS[name](data[:end])
