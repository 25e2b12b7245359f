"""Certificates of an authority that only a test knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


def write_certificate(folder: Path) -> tuple[Any, Any]:
    """Return an authority of trustme and its certificate of this machine.

    The files ``ca.pem``, ``cert.pem`` and ``key.pem`` have them. Skips the test without trustme.
    """
    authority = pytest.importorskip("trustme").CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    issued.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    return authority, issued
