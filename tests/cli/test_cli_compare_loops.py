"""``noria compare loops``: its options, what it prints, its exit status."""

import json

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")
pytest.importorskip("jinja2")

from rich.console import Console

from noria.cli.main import run
from noria.compare.loops import comparison, loops, rows, terminal
from support.compare_documents import loops_document


@pytest.fixture
def experiment(monkeypatch, tmp_path):
    """Replace the measurement, as only the command line is tested here."""
    monkeypatch.chdir(tmp_path)
    asked = {}

    def compare(names, *, quick, only, progress):
        asked.update(loops=names, quick=quick, only=only)
        progress(0.5, "half of [it]")
        if "stop" in asked:
            raise comparison.Interrupted(asked["stop"])
        return loops_document()

    monkeypatch.setattr(comparison, "compare", compare)
    return asked


def test_everything_is_measured_by_default(experiment, tmp_path, capsys):
    assert run(["compare", "loops"]) == 0
    assert experiment == {"loops": None, "quick": False, "only": None}
    shown = capsys.readouterr()
    assert "Network: medians" in shown.out
    assert "blazio: not installed: pip install blazio" in shown.out
    assert "The figures are in compare-loops.html" in shown.err
    assert "compare loops" in (tmp_path / "compare-loops.html").read_text()


def test_options_are_passed_on(experiment, tmp_path):
    arguments = ["--quick", "--loops", "uvloop, noria-*,uvloop", "--only", "echo-*,gather"]
    assert run(["compare", "loops", *arguments, "--json", "a.json", "--output", "a.html"]) == 0
    assert experiment["loops"] == ["uvloop", "noria-*"]
    assert experiment["only"] == ["echo-*", "gather"]
    assert experiment["quick"] is True
    assert json.loads((tmp_path / "a.json").read_text()) == loops_document()
    assert (tmp_path / "a.html").exists()


def test_json_on_standard_output_is_nothing_but_json(experiment, capsys):
    assert run(["compare", "loops", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out) == loops_document()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--loops", "uvlop"], "unknown loop 'uvlop'. Did you mean uvloop? Choose from: asyncio,"),
        (["--loops", "noria-blocking"], "unknown loop 'noria-blocking'."),
        (["--loops", ","], "name at least one"),
        (["--only", "tls"], "unknown row 'tls'."),
        (["--only", "echo-*,nothing-*"], "unknown row 'nothing-*'. Choose from: echo-protocol,"),
        (["--only", ""], "name at least one"),
        (["--json", "no/such/directory.json"], "no such directory"),
        (["--output", "no/such/page.html"], "no such directory"),
        (["more"], "unexpected extra argument"),
    ],
)
def test_wrong_use_is_reported_before_the_measurement(arguments, said, experiment, capsys):
    assert run(["compare", "loops", *arguments]) == 2
    assert experiment == {}
    assert said in " ".join(capsys.readouterr().err.split())


def test_ctrl_c_is_status_130_and_shows_what_was_measured(experiment, tmp_path, capsys):
    experiment["stop"] = loops_document()
    assert run(["compare", "loops"]) == 130
    shown = capsys.readouterr()
    assert "Interrupted; this was measured before:" in shown.err
    assert "echo-protocol" in shown.out
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_before_the_first_measurement_shows_nothing(experiment, capsys):
    experiment["stop"] = loops_document() | {"rows": []}
    assert run(["compare", "loops"]) == 130
    assert capsys.readouterr().out == ""


def test_the_help_names_every_row_and_loop(capsys):
    assert run(["compare", "loops", "--help"]) == 0
    shown = capsys.readouterr().out.replace("noria-\n", "noria-")
    shown = " ".join(shown.split()).replace("noria- ", "noria-")
    for name in (*loops.KNOWN, *(row.name for row in rows.ROWS)):
        assert name in shown


def printed(results, width, capsys):
    terminal.print_all(results, Console(width=width))
    return capsys.readouterr().out


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_tables_fit_the_terminal(width, capsys):
    results = loops_document()
    # The longest names, and numbers with the most digits.
    for row in results["rows"]:
        row["loop"] = row["loop"].replace("noria-epoll", "noria-epoll-edge")
    shown = printed(results, width, capsys)
    assert max(map(len, shown.splitlines())) <= width
    assert "…" not in shown
    assert ("±" in shown) == (width >= 100)


def test_the_sentence_of_each_row_is_below_its_table(capsys):
    results = loops_document()
    results["measurements"][3]["sentence"] = "uvloop is first."
    assert "call_soon: uvloop is first.\n" in printed(results, 80, capsys)


def test_notes_say_once_why_values_are_missing_or_mean_little(capsys):
    results = loops_document()
    for row in results["rows"][:2]:
        row["busy"] = 0.5
        row["note"] = "the server was busy 50% of the time: the load was the limit"
    for row in results["rows"][5:7]:
        row.update(value=None, rounds={}, note="it has no TLS")
    shown = " ".join(printed(results, 200, capsys).split())
    assert "asyncio 50%, uvloop 50%: busy less than 90% of the time, as the load was" in shown
    assert "echo-tls: asyncio, uvloop: it has no TLS" in shown


def test_a_note_of_every_row_is_shown_once(capsys):
    results = loops_document()
    for row in results["rows"]:
        if row["loop"] == "rloop":
            row.update(value=None, rounds={}, note="it does not start")
    shown = printed(results, 80, capsys)
    assert "every row: rloop: it does not start\n" in shown
    assert shown.count("it does not start") == 1


def test_green_are_the_loops_of_the_first_group_and_no_others(capsys):
    results = loops_document()
    results["measurements"] = results["measurements"][:1]
    name = results["measurements"][0]["row"]
    results["measurements"][0]["first"] = ["noria-epoll"]
    # rloop is in no claim, because it failed.
    row = next(row for row in results["rows"] if (row["row"], row["loop"]) == (name, "rloop"))
    row.update(value=None, rounds={}, note="it died")
    results["claims"] = [
        {"figure": name, "higher": "noria-epoll", "lower": loop} for loop in ("asyncio", "uvloop")
    ]
    terminal.print_all(results, Console(width=80, force_terminal=True, color_system="standard"))
    lines = capsys.readouterr().out.splitlines()
    green = [line.split()[0] for line in lines if "\x1b[1;32m" in line]
    assert green == ["noria-epoll"]


def test_files_are_written_even_if_the_output_is_closed_early(experiment, tmp_path, monkeypatch):
    def closed(results, console):
        raise BrokenPipeError

    monkeypatch.setattr(terminal, "print_all", closed)
    monkeypatch.setattr("noria.cli.main._discard_stdout", lambda: None)
    assert run(["compare", "loops", "--json", "a.json"]) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "compare-loops.html"]


def test_a_directory_that_is_not_writable_is_reported_before_the_measurement(
    experiment, monkeypatch, capsys
):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert run(["compare", "loops"]) == 2
    assert experiment == {}
    assert "compare-loops.html: its directory is not writable" in capsys.readouterr().err


def test_the_warning_about_noise_is_shown(capsys):
    results = loops_document()
    results["noise"]["warning"] = "the machine was noisy"
    assert "Warning: the machine was noisy." in printed(results, 80, capsys)


@pytest.mark.parametrize("document", [{}, {"rows": []}, {"rows": [], "measurements": [{}]}])
def test_an_incomplete_document_is_no_error(document, capsys):
    assert printed(document, 80, capsys) == ""
