"""``--threshold`` of noria run, top and report, and NORIA_THRESHOLDS."""

from __future__ import annotations

import os

import pytest
from click.testing import CliRunner

from noria.cli.main import noria
from noria.sight.findings.thresholds import Thresholds


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.delenv("NORIA_THRESHOLDS", raising=False)
    # Restored, whatever the command sets.
    monkeypatch.setattr(os, "environ", os.environ.copy())


def test_changes_are_added_to_the_environment():
    os.environ["NORIA_THRESHOLDS"] = "block=1s,unread=2s"
    result = CliRunner().invoke(noria, ["top", "--list", "--threshold", "block=50ms"])
    assert result.exit_code == 0, result.output
    assert Thresholds.from_environment(os.environ) == Thresholds(block=0.05, unread=2)


@pytest.mark.parametrize("command", [["top", "--list"], ["run"]])
def test_a_wrong_threshold_is_a_usage_error(command: list[str]):
    result = CliRunner().invoke(noria, [*command, "--threshold", "blok=50ms"])
    assert result.exit_code == 2
    assert "Did you mean block?" in result.output


def test_names_are_written_with_hyphens_and_accepted_with_both():
    result = CliRunner().invoke(noria, ["top", "--list", "--threshold", "gc_shar=5%"])
    assert "Did you mean gc-share?" in result.output
    assert "gc_" not in result.output.replace("gc_shar=", "")
    thresholds = Thresholds().changed(["gc-share=5%", "gc_pause=1s"])
    assert thresholds == Thresholds(gc_share=0.05, gc_pause=1)


def test_a_wrong_variable_is_a_usage_error():
    os.environ["NORIA_THRESHOLDS"] = "block=soon"
    result = CliRunner().invoke(noria, ["top", "--list"])
    assert result.exit_code == 2
    assert "NORIA_THRESHOLDS: 'soon' is not a value" in result.output
