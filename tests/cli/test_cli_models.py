"""``noria models``: the tables, the pages, the drawings, the JSON."""

import json

import pytest

pytest.importorskip("click")

from noria import models
from noria.cli.main import run
from noria.cli.models import drawings
from noria.cli.models.pages import PAGES

NAMES = (*models.MODELS, "simulated")


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def test_the_overview_fits_80_columns_and_is_complete(capsys):
    assert run(["models"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    for name in models.MODELS:
        assert text.count(f"\n {name} ") == 3  # a row in each table
    assert f"auto chooses {models.choose()[0]} here: {models.choose()[1]}" in text


def test_an_unavailable_model_is_shown_with_its_reason(monkeypatch, capsys):
    monkeypatch.setenv("NORIA_IO_URING", "0")
    assert run(["models"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "io_uring is not available: turned off: the environment variable NORIA_IO_URING" in text


def test_json_has_exactly_the_promised_fields(capsys):
    assert run(["models", "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert [record["name"] for record in records] == list(models.MODELS)
    for record in records:
        assert list(record) == [
            "name",
            "available",
            "reason",
            "trigger",
            "limit",
            "synchronous",
            "capabilities",
        ]
        assert record["available"] is not bool(record["reason"])
        assert set(record["capabilities"]) == set(models.CAPABILITIES)


def test_json_of_one_is_a_list_of_one(capsys):
    assert run(["models", "select", "--json"]) == 0
    assert [record["name"] for record in json.loads(capsys.readouterr().out)] == ["select"]
    assert run(["models", "auto", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["name"] == models.choose()[0]


@pytest.mark.parametrize("name", [*NAMES, "auto"])
def test_every_model_has_a_page_with_its_drawing(name, capsys):
    assert run(["models", name]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    if name != "auto":
        for line in drawings.drawing(name).splitlines():
            assert line in text
    for head in ("How it works", "When to use it", "What it cannot do", "Source"):
        assert f"\n{head}\n" in text
    for call, _ in PAGES[name].calls:
        assert call in text


def test_an_unknown_name_is_wrong_use_and_lists_the_names(capsys):
    assert run(["models", "epol"]) == 2
    said = capsys.readouterr().err
    assert "Did you mean epoll?" in said
    assert all(name in said for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_drawings_are_narrow_and_show_process_and_kernel(name):
    lines = drawings.drawing(name).splitlines()
    assert max(map(len, lines)) <= drawings.WIDTH
    assert any(line.startswith("kernel") for line in lines)
    assert any(line.startswith(("process", "thread")) for line in lines)


@pytest.mark.parametrize("name", models.MODELS)
def test_drawings_agree_with_the_catalogue(name):
    """The process's lane has both phases, or neither if the kernel copies."""
    lane = drawings.drawing(name).splitlines()[1]
    waits, copies = any(mark in lane for mark in "░▒"), "█" in lane
    assert waits is copies is models.info(name).synchronous
    assert ("▒" in lane) is (name == "nonblocking")


def test_arrows_stand_between_the_lanes_they_join():
    for name in ("blocking", "nonblocking", "select", "poll", "epoll", "epoll-edge", "io_uring"):
        _, process, down, up, *_ = (
            line.ljust(drawings.WIDTH) for line in drawings.drawing(name).splitlines()
        )
        for place in range(drawings.WIDTH):
            if up[place] == "▼":
                assert (process[place], down[place]) == ("┬", "│"), name
            if down[place] == "▲":
                assert (process[place], up[place]) == ("┬", "│"), name
        assert down.count("▲") >= 1
        assert up.count("▼") >= 1


def test_auto_marks_the_first_that_works():
    said = drawings.auto([("epoll", False), ("io_uring", True), ("poll", True)])
    here = [line for line in said.splitlines() if line.endswith("◀── here")]
    assert len(here) == 1
    assert "io_uring" in here[0]
