"""The page of `noria compare loops`: panels of ratios, computed from the rounds of a document."""

import json
import re
import statistics
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jinja2", reason="the page needs jinja2, part of noria[cli]")

from noria.compare.loops import terminal
from noria.compare.report import loops_page
from noria.compare.statistics import paired_ratio
from support.chromium import PROGRAM, Browser
from support.compare_documents import LOOP_ROWS, LOOPS, loops_document

needs_chromium = pytest.mark.skipif(not PROGRAM, reason="needs Chromium to open the page in")


def show(browser: Browser, results: dict[str, Any], path: Path, width: int = 1200) -> None:
    loops_page.write(results, path)
    browser.renew()
    browser.show(path.as_uri(), width=width)
    browser.until("document.documentElement.dataset.drawn")


def row_of(results: dict[str, Any], name: str, loop: str) -> dict[str, Any]:
    return next(row for row in results["rows"] if row["row"] == name and row["loop"] == loop)


def items(results: dict[str, Any], name: str) -> dict[str, dict[str, Any]]:
    measurement = next(each for each in results["measurements"] if each["row"] == name)
    return {item["name"]: item for item in loops_page.panel(results, measurement)["items"]}


@pytest.mark.parametrize("name", ["call_soon", "memory-idle"])
def test_ratios_are_paired_by_round_and_above_1_is_better(name):
    results = loops_document()
    mine = row_of(results, name, "noria-epoll")["rounds"]["value"]
    base = row_of(results, name, "asyncio")["rounds"]["value"]
    if name == "memory-idle":  # lower is better
        mine, base = base, mine
    each = [one / other for one, other in zip(mine, base, strict=True)]
    expected = paired_ratio(mine, base)
    assert expected is not None
    found = items(results, name)["noria-epoll"]
    assert found["ratio"] == pytest.approx(statistics.median(each))
    assert found["ratio"] > 1.5
    assert (found["lowest"], found["highest"]) == (min(each), max(each))
    assert (found["low"], found["high"]) == (expected.low, expected.high)
    assert found["rounds"] == 7


def test_the_base_is_1_and_has_no_interval():
    found = items(loops_document(), "call_soon")["asyncio"]
    assert found["ratio"] == found["lowest"] == found["highest"] == 1
    assert "low" not in found


def test_without_asyncio_the_base_is_the_first_loop_as_in_the_terminal():
    results = loops_document()
    found = [row for row in results["rows"] if row["loop"] != "asyncio"]
    results["rows"] = sorted(found, key=lambda row: row["loop"] != "noria-epoll")
    panel = loops_page.panel(results, results["measurements"][0])
    assert panel["base"] == terminal.base_of(results) == "noria-epoll"


def test_another_loop_is_the_base_where_asyncio_was_not_measured():
    results = loops_document()
    row = row_of(results, "call_soon", "asyncio")
    row |= {"value": None, "rounds": {"value": [None] * 7}, "note": "it failed"}
    measurement = results["measurements"][3]
    assert loops_page.panel(results, measurement)["base"] == "uvloop"
    found = items(results, "call_soon")
    assert found["uvloop"]["ratio"] == 1
    assert found["asyncio"]["missing"] == "it failed"


def test_rounds_that_only_one_of_the_two_has_are_skipped():
    results = loops_document()
    row_of(results, "call_soon", "uvloop")["rounds"]["value"][2] = None
    row_of(results, "call_soon", "asyncio")["rounds"]["value"][3] = None
    assert items(results, "call_soon")["uvloop"]["rounds"] == 5
    assert items(loops_document(rounds=3), "call_soon")["uvloop"].keys().isdisjoint({"low", "high"})


def test_the_page_has_the_numbers_without_scripts():
    results = loops_document()
    written = loops_page.render(results)
    body = written[: written.index('<script type="application/json"')]
    row = row_of(results, "call_soon", "uvloop")
    value, low, high = (
        f"{number:,.0f}"
        for number in (row["value"], row["lowest"]["value"], row["highest"]["value"])
    )
    assert f"{value} ({low} to {high}) /s" in body
    assert "pip install blazio" in body
    assert re.findall(r'id="figure-([\w-]+)"', body) == [
        "network",
        "scheduling",
        "files-and-memory",
        "noise",
    ]
    assert not re.search(r"(src|href)=\"(?!data:|#)", body)


def test_each_row_has_the_sentence_of_the_document():
    results = loops_document()
    results["measurements"][3]["sentence"] = "no <difference> could be measured here."
    del results["measurements"][4]["sentence"]
    written = loops_page.render(results)
    assert "call_soon: no &lt;difference&gt; could be measured here." in written
    assert "HTTP, uvicorn: noria-io_uring is first in http-uvicorn." in written
    assert "timers cancelled: noria" not in written


@pytest.mark.parametrize("key", ["loops", "measurements", "rows", "noise", "machine"])
def test_a_document_may_be_incomplete(key):
    results = loops_document()
    del results[key]
    assert loops_page.render(results)
    assert loops_page.render({**results, key: None})
    assert loops_page.render({})


def test_numbers_that_are_missing():
    results = loops_document()
    for i, row in enumerate(results["rows"]):
        for key in list(row):
            if i % 7 == 0 and key not in ("row", "loop"):
                row[key] = None
        if i % 7 == 1:
            del row["rounds"], row["lowest"], row["highest"]
    written = loops_page.render(results)
    assert "nan" not in written[: written.index('<script type="application/json"')].lower()
    assert items(results, "echo-protocol")["asyncio"]["missing"] == "not measured"
    assert items(results, "echo-protocol")["uvloop"]["ratio"] == 1


@needs_chromium
@pytest.mark.parametrize("width", [360, 700, 1600])
def test_panels_are_drawn(browser, width, tmp_path):
    results = loops_document()
    row = row_of(results, "echo-tls", "rloop")
    row |= {"value": None, "rounds": {"value": [None] * 7}, "note": "TLS is not supported"}
    show(browser, results, tmp_path / "page.html", width=width)
    count = f"document.querySelectorAll({json.dumps('.panels svg[role=img]')}).length"
    assert browser.ask(count) == len(LOOP_ROWS)
    whiskers = browser.ask("document.querySelectorAll('.panels .whisker line').length")
    assert whiskers == len(LOOP_ROWS) * (len(LOOPS) - 1) - 1  # the base has none
    said = browser.ask("document.querySelector('[data-name=\"network\"]').textContent")
    assert "TLS is not supported" in said
    assert "lowest to highest of 7 rounds" in said
    assert "confidence interval" in said
    root = "document.documentElement"
    assert browser.ask(f"{root}.scrollWidth <= {root}.clientWidth")
    assert browser.ask("document.querySelector('main').innerHTML.includes('NaN')") is False
    assert browser.ask("performance.getEntriesByType('resource').length") == 0
    assert browser.errors == []


@needs_chromium
def test_wide_intervals_do_not_flatten_the_whiskers(browser, tmp_path):
    show(browser, loops_document(), tmp_path / "page.html")
    widths = (
        "ratioPanels(900, [{title: 'a', items: [{name: 'x', ratio: 2, lowest: 1.5, highest: 3, "
        "rounds: 5, low: LOW, high: HIGH}]}])[1].querySelector('.whisker line').getAttribute('x2')"
    )
    narrow, wide = (
        float(browser.ask(widths.replace("LOW", str(low)).replace("HIGH", str(high))))
        for low, high in ((1.8, 2.2), (0.01, 400))
    )
    assert narrow == wide


@needs_chromium
def test_a_row_without_measurements_says_why_once(browser, tmp_path):
    results = loops_document()
    for row in results["rows"]:
        if row["row"] == "call_soon":
            row |= {"value": None, "rounds": {"value": [None] * 7}, "note": "out of time"}
    show(browser, results, tmp_path / "page.html")
    said = browser.ask("document.querySelector('[data-name=\"scheduling\"]').textContent")
    assert said.count("out of time") == 1
    assert browser.ask("document.querySelectorAll('.panels svg').length") == len(LOOP_ROWS) - 1


@needs_chromium
def test_one_figure_can_be_shown_alone(browser, tmp_path):
    path = tmp_path / "page.html"
    loops_page.write(loops_document(), path)
    browser.renew()
    browser.show(f"{path.as_uri()}#only=scheduling")
    shown = "[...document.querySelectorAll('.figure')].filter(f => f.offsetHeight).map(f => f.id)"
    assert browser.ask(shown) == ["figure-scheduling"]
