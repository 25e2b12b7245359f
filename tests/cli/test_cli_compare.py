"""``noria compare``: the options passed to the experiment, and the output of its results."""

import importlib
import json
import sys
import types

import pytest

pytest.importorskip("click")

from noria.cli.main import run


@pytest.fixture
def experiment(monkeypatch, tmp_path):
    """Replace the experiment, as only the command line is tested here."""
    monkeypatch.chdir(tmp_path)
    asked = {}

    def compare(models, quick, only, progress):
        asked.update(models=models, quick=quick, only=only)
        progress(0.5, "half of [it]")
        if "stop" in asked:
            raise KeyboardInterrupt
        return {"quick": quick, "models": []}

    def write(results, path):
        asked["page"] = (results, path)

    def print_tables(results, console):
        console.print("the tables")

    for name, contents in (
        ("measure.run", {"compare": compare}),
        ("report.page", {"write": write}),
        ("report.tables", {"print_tables": print_tables}),
    ):
        module = types.ModuleType(f"noria.compare.{name}")
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        package = importlib.import_module(module.__name__.rpartition(".")[0])
        monkeypatch.setattr(package, name.rpartition(".")[2], module, raising=False)
    return asked


def test_everything_is_measured_by_default(experiment, capsys):
    assert run(["compare"]) == 0
    results = {"quick": False, "models": [], "claims": []}
    assert experiment == {
        "models": None,
        "quick": False,
        "only": None,
        "page": (results, "compare.html"),
    }
    assert capsys.readouterr().out == "the tables\n"


def test_options_are_passed_to_the_experiment(experiment, tmp_path):
    arguments = ["--quick", "--models", "select, epoll,select", "--only", "idle,phases"]
    assert run(["compare", *arguments, "--json", "all.json", "--output", "a.html"]) == 0
    assert experiment["models"] == ["select", "epoll"]
    assert experiment["only"] == ["idle", "phases"]
    assert experiment["page"][1] == "a.html"
    assert json.loads((tmp_path / "all.json").read_text()) == {
        "quick": True,
        "models": [],
        "claims": [],
    }


def test_json_on_standard_output_is_nothing_but_json(experiment, capsys):
    assert run(["compare", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "quick": False,
        "models": [],
        "claims": [],
    }


@pytest.mark.parametrize(
    "arguments",
    [
        ["--models", "epol"],
        ["--models", "epoll,auto"],
        ["--models", ","],
        ["--only", "speed"],
        ["--json", "no/such/directory.json"],
        ["--output", "no/such/page.html"],
    ],
)
def test_wrong_use_is_reported_before_the_measurement(arguments, experiment, capsys):
    assert run(["compare", *arguments]) == 2
    assert experiment == {}
    assert "Error:" in capsys.readouterr().err


def test_an_unknown_model_gets_the_closest(experiment, capsys):
    run(["compare", "--models", "io-urng"])
    assert "Did you mean io_uring?" in capsys.readouterr().err


def test_ctrl_c_is_status_130_and_writes_nothing(experiment):
    experiment["stop"] = True
    assert run(["compare"]) == 130
    assert "page" not in experiment
