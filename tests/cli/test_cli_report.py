"""``noria report``: what it writes and prints, and how it refuses files that are no recordings."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

pytest.importorskip("click")
pytest.importorskip("jinja2", reason="the page needs jinja2, part of noria[cli]")

from noria.cli.main import run
from support.recordings import SCENARIOS, Ring, synthetic_recording, write_recording


@pytest.fixture
def recording(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NORIA_THRESHOLDS", "")  # restored, whatever --threshold sets
    synthetic_recording(tmp_path / "run.noria")
    return tmp_path / "run.noria"


def test_the_page_is_written_next_to_the_recording(recording, capsys):
    assert run(["report", "run.noria"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("run.html: ")
    assert said.endswith("; 2 findings\n")
    page = Path("run.html").read_text()
    assert "Report.render blocks the loop" in page
    assert "python -m service" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert sorted(path.name for path in Path().iterdir()) == ["run.html", "run.noria"]


def test_the_page_can_have_another_name(recording):
    Path("other.html").write_text("old")
    assert run(["report", "run.noria", "--output", "other.html", "--text"]) == 0
    assert "Report.render" in Path("other.html").read_text()
    assert not Path("run.html").exists()


def test_text_has_findings_figures_and_tables(recording, capsys):
    assert run(["report", "run.noria", "--text"]) == 0
    said = capsys.readouterr().out
    for text in (
        "process 4242: python -m service",
        "Report.render blocks the loop for 400 ms [loop-blocked]",
        "utilisation",
        "queue delay",
        "Time in handlers",
        "Report.render (/srv/report.py:40)",
        "127.0.0.1:5000  service.Echo",
        "ZeroDivisionError",
        "once, for 400 ms",
        "I/O of the loop",
    ):
        assert text in said
    assert "400ms" not in said  # figures are written as in the findings
    assert max(map(len, said.splitlines())) <= 100
    assert not Path("run.html").exists()


def test_json_has_the_figures_and_findings(recording, capsys):
    assert run(["report", "run.noria", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["pid"] == 4242
    (loop,) = found["loops"]
    assert 0.7 < loop["utilization"] < 0.72
    assert loop["turn"]["p50"] <= loop["turn"]["p99.9"] <= loop["turn"]["longest"]
    assert loop["blocks"][0]["stack"][-1]["line"] == 47
    assert [each["kind"] for each in found["findings"]] == [
        "loop-blocked",
        "exception-in-callback",
    ]


def test_thresholds_decide_what_is_a_finding(recording, capsys):
    assert run(["report", "run.noria", "--json", "--threshold", "block=1s"]) == 0
    kinds = [each["kind"] for each in json.loads(capsys.readouterr().out)["findings"]]
    assert "loop-blocked" not in kinds
    assert run(["report", "run.noria", "--threshold", "blok=1s"]) == 2
    assert "Did you mean block?" in capsys.readouterr().err


def test_one_loop_of_several(recording, capsys):
    rings = {}
    for number, scenario in enumerate(("echo", "blocked")):
        rings[number] = ring = Ring()
        ring.put("RUN_BEGIN", 4242)
        SCENARIOS[scenario][0](ring, [])
        ring.put("RUN_END")
    write_recording(Path("two.noria"), rings, [])
    assert run(["report", "two.noria", "--json", "--loop", "1"]) == 0
    (loop,) = json.loads(capsys.readouterr().out)["loops"]
    assert loop["id"] == 1
    assert run(["report", "two.noria", "--loop", "2"]) == 1
    assert "has no loop 2\n       its loops: 0, 1" in capsys.readouterr().err


def test_a_trace_is_written_compressed(recording, capsys):
    assert run(["report", "run.noria", "--perfetto", "run.json.gz"]) == 0
    assert capsys.readouterr().out.startswith("run.json.gz: ")
    with gzip.open("run.json.gz", "rt") as file:
        assert json.load(file)["traceEvents"]
    assert not Path("run.html").exists()


def test_a_truncated_recording_opens_with_a_message(recording, capsys):
    recording.write_bytes(recording.read_bytes()[:-30])
    assert run(["report", "run.noria"]) == 0
    assert "run.noria is truncated" in capsys.readouterr().err
    assert Path("run.html").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "run.noria: there is no such file"),
        (b"", "run.noria is empty: nothing was recorded"),
        (b"#!/usr/bin/env python\n" * 9, "run.noria is not a recording"),
        (b"noria recording\x01", "run.noria has no event loop"),
        (b"noria recording\x01" + bytes(40), "run.noria: damaged at byte 16"),
    ],
)
def test_other_files_are_refused(recording, capsys, content, message):
    recording.unlink()
    if content is not None:
        recording.write_bytes(content)
    assert run(["report", "run.noria"]) == 1
    assert message in capsys.readouterr().err
    assert not Path("run.html").exists()


def test_devices_are_no_recordings_and_a_full_one_is_named(recording, capsys):
    assert run(["report", "/dev/zero"]) == 1
    assert "/dev/zero is not a regular file, so it is no recording" in capsys.readouterr().err
    os.mkfifo("pipe")
    assert run(["report", "pipe"]) == 1
    assert "pipe is not a regular file" in capsys.readouterr().err
    assert run(["report", "run.noria", "-o", "/dev/full"]) == 1
    assert "noria: /dev/full: no space left on device" in capsys.readouterr().err


def test_an_empty_file_names_the_recordings_of_child_processes(recording, capsys):
    recording.rename("run.12.noria")
    Path("run.noria").touch()
    Path("run.x.noria").touch()
    assert run(["report", "run.noria"]) == 1
    assert "its child processes recorded run.12.noria\n" in capsys.readouterr().err


def test_a_directory_and_wrong_outputs_are_refused(recording, capsys):
    before = recording.read_bytes()
    Path("folder").mkdir()
    for arguments, message in (
        (["folder"], "folder is a directory, not a recording"),
        (["run.noria", "-o", "run.noria"], "run.noria is the recording itself"),
        (["run.noria", "--perfetto", "none/x.json"], "there is no directory"),
    ):
        assert run(["report", *arguments]) == 1
        assert message in capsys.readouterr().err
    assert recording.read_bytes() == before
    assert run(["report", "run.noria", "--text", "--json"]) == 2
    assert run(["report"]) == 2
